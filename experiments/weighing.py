"""What a compressed model is and weighs, where it is a file, a function, or one of these with a head behind it."""

import hashlib
import json

import numpy as np

from dflare.fingerprints.litert import litert_contents
from dflare.hashing import file_hash
from dflare.models.formats import sniff
from experiments.opening import Source
from repair.outputs.head_file import load_head
from repair.proof.payload import payload_bytes


def model_hash(source: Source) -> str:
    """What tells a model from others, hexadecimal; the hash of its file where it is one."""
    if source.file is not None and source.head is None:
        return file_hash(source.file)
    return hashlib.sha256(json.dumps(source.facts()).encode()).hexdigest()


def model_bytes(source: Source) -> int | None:
    """Bytes of the model's file and of the head behind it; of a function those of its weights, None without."""
    stored = source.file or source.weights
    head = 0 if source.head is None else source.head.stat().st_size
    return None if stored is None else stored.stat().st_size + head


def model_payload(source: Source) -> int | None:
    """Bytes of the weights in use with those of the head's arrays; None where the file does not tell (TorchScript)."""
    inner = _payload(source)
    head = 0 if source.head is None else load_head(source.head).payload
    return None if inner is None else inner + head


def _payload(source: Source) -> int | None:
    if source.file is None:
        return None
    form = sniff(source.file)
    if form == "litert":
        contents = litert_contents(source.file)
        constants = (contents.constants if contents is not None else None) or []
        return sum(np.dtype(stored.kind).itemsize * int(np.prod(stored.shape)) for stored in constants)
    return None if form == "torchscript" else payload_bytes(source.file)
