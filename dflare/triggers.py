"""Triggering inputs: what was found, from which seed, by which path, and what both models said."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import reduce
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from dflare import columns, distances
from dflare.classifiers import ModelPair, Outputs
from dflare.errors import InputError
from dflare.ragged import Ragged
from dflare.search import Ended


class Side(IntEnum):
    """What a seed image may be used for; no seed is on two sides."""

    train = 0
    validate = 1
    judge = 2


@dataclass(frozen=True)
class TriggerSet:
    """n triggers, side by side; every field has leading dimension n."""

    seeds: Tensor  # (n,) int64, the seed images' ids
    sides: Tensor  # (n,) uint8, see `Side`
    seed_images: Tensor  # (n, c, h, w) uint8
    images: Tensor  # (n, c, h, w) uint8, the triggers
    original: Tensor  # (n, classes) float32, the original's scores on the triggers
    compressed: Tensor  # (n, classes) float32, those of the compressed model that was searched
    queries: Tensor  # (n,) int64
    shrink_queries: Tensor  # (n,) int64, asked to bring the trigger nearer to its seed; 0 where that was not tried
    path: Ragged  # (n, length, 3) int32, step, choice and position of every accepted candidate, up to the one found

    def __len__(self) -> int:
        return len(self.seeds)

    def take(self, rows: Tensor) -> Self:
        """Some of the triggers, selected by mask or index."""
        return columns.take(self, rows)

    def side(self, side: Side) -> Self:
        """The triggers whose seeds are on that side."""
        return self.take(self.sides == int(side))

    def replaced(self, other: Self) -> Self:
        """The set with the other's triggers in place of those of the same side and seed."""
        places = {key: row for row, key in enumerate(other.identities())}
        rows = [places.get(key, len(other) + row) for row, key in enumerate(self.identities())]
        return columns.join(other, self).take(torch.tensor(rows, dtype=torch.int64))

    def identities(self) -> list[tuple[int, int]]:
        """Side and seed of each trigger, which no two triggers of one search share."""
        return list(zip(self.sides.tolist(), self.seeds.tolist(), strict=True))

    def verify(self, pair: ModelPair) -> Tensor:
        """Whether each trigger deviates for a (freshly opened) pair, asked alone, (n,) bool."""
        if not len(self):
            return torch.zeros(0, dtype=torch.bool)
        return pair.one_by_one(self.images).deviates.clone()

    @property
    def outputs(self) -> Outputs:
        """What both models said of the triggers when they were found."""
        return Outputs(self.original, self.compressed)

    @property
    def distances(self) -> dict[str, Tensor]:
        """How far each trigger is from its seed, on [0, 1]: `l_inf`, `l_2` and the similarity `ssim`, (n,) float64."""
        both = self.images, self.seed_images
        return {"l_inf": distances.l_inf(*both), "l_2": distances.l_2(*both), "ssim": distances.ssim(*both)}

    @classmethod
    def of(cls, ended: Ended, side: Side) -> Self:
        """The triggers in chains that ended by a deviation."""
        chains, outputs = ended.chains, ended.outputs
        sides = torch.full((len(chains),), int(side), dtype=torch.uint8)
        return cls(
            chains.seed.cpu(),
            sides,
            chains.origin.cpu(),
            chains.images.cpu(),
            outputs.original.float().cpu(),
            outputs.compressed.float().cpu(),
            chains.queries.cpu(),
            torch.zeros(len(chains), dtype=torch.int64),
            Ragged(chains.path.values.cpu(), chains.path.count.cpu()),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The set as plain arrays for `numpy.savez`; paths lie end to end in `trigger_path`."""
        arrays = {f"trigger_{f.name}": getattr(self, f.name).numpy() for f in fields(self) if f.name != "path"}
        paths = self.path.lists()
        arrays["trigger_path"] = (torch.cat(paths) if paths else torch.zeros(0, 3, dtype=torch.int32)).numpy()
        arrays["trigger_path_lengths"] = self.path.count.numpy()
        return arrays

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Self:
        """The inverse of `arrays`."""
        tensors = {f.name: torch.from_numpy(arrays[f"trigger_{f.name}"]) for f in fields(cls) if f.name != "path"}
        lengths = torch.from_numpy(arrays["trigger_path_lengths"])
        values = torch.zeros(len(lengths), max(1, int(lengths.amax()) if len(lengths) else 1), 3, dtype=torch.int32)
        used = torch.arange(values.shape[1]) < lengths[:, None]
        values[used] = torch.from_numpy(arrays["trigger_path"])
        return cls(**tensors, path=Ragged(values, lengths))

    def save(self, path: Path) -> None:
        """Write the set to an `.npz` file of plain arrays (no pickle)."""
        np.savez_compressed(path, **self.arrays())  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a set that `save` wrote; raises `InputError` for anything else."""
        return cls.from_arrays(read_arrays(path, *cls.names()))

    @classmethod
    def names(cls) -> list[str]:
        """Names of the arrays that make a set."""
        return [*(f"trigger_{f.name}" for f in fields(cls)), "trigger_path_lengths"]


def concatenate(sets: Sequence[TriggerSet]) -> TriggerSet:
    """All triggers of one or more sets, in order."""
    return reduce(columns.join, sets)


def read_arrays(path: Path, *required: str) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file, without ever unpickling.

    Raises `InputError` for a damaged or foreign file, and for one without the `required` arrays.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # zipfile, zlib and numpy raise some ten kinds for damaged files
        reason = str(error).partition(" If you trust")[0].splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"expected arrays without pickles (.npz) in {path}, but it cannot be read: {reason.rstrip('.')}; "
            "delete it and run the same command, what it held is made again"
        ) from error
    missing = [name for name in required if name not in arrays]
    if missing:
        raise InputError(f"expected the arrays {', '.join(required)} in {path}, but it lacks {', '.join(missing)}")
    return arrays
