"""Heads in `.npz` files, without pickles; a file that was damaged or edited is refused."""

import hashlib
import io
from pathlib import Path

import numpy as np

from dflare.errors import InputError
from dflare.triggers import read_arrays
from dflare.writing import write_atomic
from repair.outputs.checking import check_head
from repair.outputs.head import Arrays, Head

ENDING = ".npz"
LARGEST = 2**28
"""Bytes above which a file is no head."""

_FORMAT = "dflare head 1"
_OWN = ("format", "kind", "sha256")


def head_bytes(head: Head) -> bytes:
    """The content of the head's file; the same head gives the same bytes."""
    buffer = io.BytesIO()
    words = {"format": np.array(_FORMAT), "kind": np.array(head.kind), "sha256": np.array(_digest(head))}
    np.savez(buffer, **words, **head.arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def save_head(head: Head, path: Path) -> None:
    """Write the head to a file, whole or not at all; raises `InputError` for a head that could not be read back."""
    write_atomic(path, head_bytes(check_head(head, "the head to be saved")))


def load_head(path: Path, classes: int | None = None) -> Head:
    """The head in a file, for a model of so many classes, None where that is not known.

    Raises `InputError` for a missing, damaged or foreign file, for arrays that no head has, and for any that were
    changed after the file was written.
    """
    if not path.is_file() or path.stat().st_size > LARGEST:
        found = "none" if not path.exists() else "something else"
        raise InputError(f"expected a head of an output repair (.npz) at {path}, found {found}")
    arrays = read_arrays(path)
    words = [_word(arrays.pop(name, None)) for name in _OWN]
    if words[0] != _FORMAT:
        raise InputError(f"expected a head of an output repair ({_FORMAT}) in {path}, found other arrays")
    head = check_head(Head(words[1], arrays), str(path), classes)
    if words[2] != _digest(head):
        raise InputError(f"expected the head in {path} as it was written, but its arrays were changed; repair again")
    return head


def _word(array: np.ndarray | None) -> str:
    return str(array) if array is not None and array.ndim == 0 and array.dtype.kind == "U" else ""


def _digest(head: Head) -> str:
    """SHA-256 of kind, names, shapes, types and numbers, hexadecimal."""
    return hashlib.sha256(_told(head.kind, head.arrays)).hexdigest()


def _told(kind: str, arrays: Arrays) -> bytes:
    parts = [kind.encode()]
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
        parts += [f"\n{name} {array.dtype.name} {array.shape}\n".encode(), little.tobytes()]
    return b"".join(parts)
