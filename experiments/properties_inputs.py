"""What `dflare properties` works on: a network, what it must not do, where it is used, and samples of one's own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dflare.errors import InputError
from experiments.array_files import look_into, reading
from experiments.properties_config import PropertySettings
from repair.properties.claims import conjunction
from repair.properties.networks import NetworkFile, open_network
from repair.properties.property import Box, Property
from repair.properties.vnnlib import read_vnnlib

ENDINGS = (".npz", ".npy", ".h5", ".hdf5")


class Domain(Protocol):
    """Where inputs are drawn from: a `Box`, or the boxes of a `Property`."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws, float32 (n, inputs)."""
        ...


@dataclass(frozen=True)
class Subject:
    """A network and its claims; whoever makes one by other means than files has the run work on it alike."""

    opened: NetworkFile
    claims: tuple[Property, ...]  # in the order of the files
    wanted: Property  # all claims at once
    domain: Domain | None  # None: nothing is known of inputs outside the claims' boxes
    own: tuple[Tensor | None, Tensor | None] = (None, None)  # counterexamples and safe inputs, float32 (n, inputs)


def open_subject(asked: PropertySettings) -> Subject:
    """Everything that the settings name; raises `InputError` for what is missing, unreadable or does not fit."""
    opened = open_network(Path(str(asked.model)))
    claims = _told_apart([read_vnnlib(Path(name)) for name in asked.files])
    wanted = conjunction(claims)
    network = opened.network
    if (wanted.inputs, wanted.outputs) != (network.inputs, network.outputs):
        raise InputError(
            f"the property in {asked.files[0]} must be of the network in {asked.model}, which has {network.inputs} "
            f"inputs and {network.outputs} outputs, it is of {wanted.inputs} and {wanted.outputs}"
        )
    domain = None if asked.domain is None else read_domain(asked.domain, wanted.inputs)
    files = {"counterexamples": asked.counterexamples, "safe": asked.safe}
    bad, safe = (
        None if file is None else _fitting(opened, wanted, read_samples(Path(file), name, wanted.inputs), name)
        for name, file in files.items()
    )
    return Subject(opened, claims, wanted, domain, (bad, safe))


def _told_apart(claims: Sequence[Property]) -> tuple[Property, ...]:
    """The claims; of files that are called alike, in other folders, the later ones with their place behind the name."""
    names = [claim.name for claim in claims]
    return tuple(
        replace(claim, name=f"{claim.name}-{place + 1}") if claim.name in names[:place] else claim
        for place, claim in enumerate(claims)
    )


def read_domain(text: str, inputs: int) -> Domain:
    """The boxes of a .vnnlib file, or a box in words: `low..high` for all inputs, or one for each, with commas.

    Raises `InputError` for anything else and for another number of inputs than the network has.
    """
    if text.lower().endswith(".vnnlib"):
        read = read_vnnlib(Path(text))
        if read.inputs != inputs:
            raise InputError(f"properties.domain={text} must be of the network's {inputs} inputs, got {read.inputs}")
        return read
    sides = [side.partition("..") for side in text.split(",")]
    try:
        numbers = torch.tensor([[float(low), float(high)] for low, _, high in sides], dtype=torch.float64)
        if len(sides) not in (1, inputs):
            raise ValueError
        low, high = numbers.expand(inputs, 2).unbind(-1)
        return Box(low.contiguous(), high.contiguous())
    except ValueError as error:
        raise InputError(
            f"properties.domain must be a .vnnlib file, low..high of all inputs, or {inputs} such sides with commas, "
            f"got {text!r}"
        ) from error


def read_samples(path: Path, name: str, inputs: int) -> Tensor:
    """The inputs in a .npz, .npy or .h5 file, float32 (n, inputs), without duplicates.

    A file of several arrays must call them `name`, `counterexamples` or `safe`. Raises `InputError` for a missing
    file, an array that is no such inputs, NaN and infinities, and for .h5 without h5py.
    """
    key = f"properties.{name}"
    if not path.is_file() or path.suffix.lower() not in ENDINGS:
        raise InputError(f"expected a file {', '.join(ENDINGS)} at {path} ({key}), found none")
    values = _from_h5(path, name) if path.suffix.lower() in (".h5", ".hdf5") else _from_numpy(path, name)
    if values.dtype.kind not in "fiu" or values.ndim < 2 or values[:1].size != (inputs if len(values) else 0):
        raise InputError(f"{path} ({key}) must hold numbers (n, {inputs}), got {values.dtype} {values.shape}")
    with np.errstate(over="ignore"):  # a number beyond float32 is refused below
        found = torch.from_numpy(values.astype(np.float32)).reshape(len(values), inputs)
    if not found.isfinite().all():
        raise InputError(f"{path} ({key}) must hold finite numbers of float32, got NaN, infinity or one beyond it")
    return found.unique(dim=0)


def _fitting(opened: NetworkFile, wanted: Property, inputs: Tensor, name: str) -> Tensor:
    """Those that are what they are called: in the property's boxes, and violating it or not."""
    with torch.no_grad():
        violated = wanted.violated(inputs, opened.network(inputs))
    fitting = inputs[wanted.contains(inputs) & (violated == (name == "counterexamples"))]
    if not len(fitting):
        inside = int(wanted.contains(inputs).sum())
        what = "violate" if name == "counterexamples" else "satisfy"
        raise InputError(
            f"properties.{name} must hold inputs that {what} {wanted.name}: of {len(inputs)} read, {inside} lie in its "
            f"boxes and none of those does"
        )
    return fitting


def _from_numpy(path: Path, name: str) -> np.ndarray:
    stored = look_into(path)
    return stored[_pick(list(stored), name, path)].read()


def _from_h5(path: Path, name: str) -> np.ndarray:
    try:
        import h5py
    except ImportError as missing:
        raise InputError(f"to read {path} (properties.{name}) needs h5py: pip install h5py") from missing
    with reading(str(path)), h5py.File(path) as file:
        data = [each for each in file if isinstance(file[each], h5py.Dataset)]
        return np.asarray(file[_pick(data, name, path)])


def _pick(names: Sequence[str], name: str, path: Path) -> str:
    """The only array, or the one with the right name."""
    if len(names) == 1 or name in names:
        return name if name in names else names[0]
    raise InputError(f"expected one array, or one called {name}, in {path}, got {', '.join(names[:5]) or 'none'}")
