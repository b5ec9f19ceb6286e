"""The triggers and the ended chains of a run folder's searches, read with numpy alone."""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from dflare.errors import InputError

SIDES = ("train", "validate", "judge")
"""Names by the numbers in the shards; `dflare.triggers.Side` has the same."""

DEVIATED, ALREADY = 0, 1
"""Numbers of the endings in the shards, by their place in `dflare.search.Ending`."""

Columns = dict[str, NDArray[Any]]

_CHAINS = ("seeds", "sides", "endings", "queries")
_TRIGGERS = ("seeds", "sides", "original", "compressed", "queries", "path", "path_lengths")


@dataclass(frozen=True)
class Chains:
    """How the chains of one search ended, side by side; each field is (n,)."""

    seeds: NDArray[np.int64]
    sides: NDArray[np.int64]
    endings: NDArray[np.int64]
    queries: NDArray[np.int64]

    def side(self, name: str) -> "Chains":
        """The chains whose seeds are on that side."""
        rows = self.sides == SIDES.index(name)
        return Chains(*(getattr(self, key)[rows] for key in _CHAINS))


@dataclass(frozen=True)
class Trigger:
    """One trigger, without its images."""

    round: int
    side: str
    seed: int
    original: NDArray[np.float64]  # probabilities (classes,)
    compressed: NDArray[np.float64]
    queries: int
    choices: tuple[int, ...]  # of the accepted candidates, in order; what they mean is up to the strategy
    file: Path
    row: int

    @property
    def name(self) -> str:
        """What no other trigger of the run's own search is called: `round-00/train/00c32cdf1577723c`."""
        return f"round-{self.round:02d}/{self.side}/{self.seed:016x}"

    @property
    def pair(self) -> tuple[int, int]:
        """What the original says and what the compressed model says."""
        return int(self.original.argmax()), int(self.compressed.argmax())

    @property
    def clearness(self) -> float:
        """The smaller of the two models' top-1 minus top-2 probability, in [0, 1]."""
        tops = [np.sort(scores)[-2:] for scores in (self.original, self.compressed)]
        return float(min(top[-1] - top[0] for top in tops))


def round_folders(run_dir: Path) -> dict[int, Path]:
    """Number of each round that has begun -> its folder, in order."""
    matches = {path: re.fullmatch(r"round-(\d+)", path.name) for path in run_dir.glob("round-*")}
    return dict(sorted((int(match[1]), path) for path, match in matches.items() if match))


def read_chains(folder: Path) -> Chains | None:
    """How the chains in a search's folder ended; None where there is no such folder, or none has ended yet.

    Raises `InputError` for a damaged shard.
    """
    shards = [_arrays(path, "ended_", _CHAINS) for path in sorted(folder.glob("triggers-*.npz"))]
    found = [shard for shard in shards if shard is not None]
    if not found:
        return None
    return Chains(*(np.concatenate([shard[key].astype(np.int64) for shard in found]) for key in _CHAINS))


def read_triggers(folder: Path, number: int) -> list[Trigger]:
    """The triggers of round `number` in a search's folder, shrunk ones in the place of those that were found.

    In order of side and seed; none where there is no such folder. Raises `InputError` for a damaged shard.
    """
    found: dict[tuple[int, int], Trigger] = {}
    for path in [*sorted(folder.glob("triggers-*.npz")), *sorted(folder.glob("shrunk-*.npz"))]:
        arrays = _arrays(path, "trigger_", _TRIGGERS)
        for trigger in _triggers(path, number, arrays) if arrays is not None else []:
            found[SIDES.index(trigger.side), trigger.seed] = trigger
    return [found[key] for key in sorted(found)]


def read_images(triggers: Sequence[Trigger]) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Seed image and trigger, uint8 (c, h, w) both, by the triggers' names; each shard is opened once."""
    by_file: dict[Path, list[Trigger]] = {}
    for trigger in triggers:
        by_file.setdefault(trigger.file, []).append(trigger)
    found: dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}
    for path, rows in by_file.items():
        arrays = _arrays(path, "trigger_", ("seed_images", "images"))
        both = list(arrays.values()) if arrays is not None else []
        if not both or any(images.ndim != 4 or images.dtype != np.uint8 for images in both):
            raise InputError(f"{path} must hold uint8 images (n, channels, height, width) of its triggers")
        found |= {trigger.name: (both[0][trigger.row].copy(), both[1][trigger.row].copy()) for trigger in rows}
    return found


def _triggers(path: Path, number: int, arrays: Columns) -> list[Trigger]:
    sides, lengths = arrays["sides"].tolist(), arrays["path_lengths"]
    choices = np.split(arrays["path"][:, 1], np.cumsum(lengths)[:-1]) if len(lengths) else []
    scores = [_probabilities(arrays[key]) for key in ("original", "compressed")]
    columns = zip(sides, arrays["seeds"].tolist(), *scores, arrays["queries"].tolist(), choices, strict=True)
    if not set(sides) <= set(range(len(SIDES))):
        raise InputError(f"{path} must say 0, 1 or 2 for the side of a trigger, got {max(sides)}")
    return [
        Trigger(number, SIDES[side], seed, original, compressed, queries, tuple(taken.tolist()), path, row)
        for row, (side, seed, original, compressed, queries, taken) in enumerate(columns)
    ]


def _probabilities(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Softmax of raw scores (n, classes)."""
    finite = np.nan_to_num(scores.astype(np.float64))
    powers = np.exp(finite - finite.max(-1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(-1, keepdims=True)
    return probabilities


def _arrays(path: Path, prefix: str, names: tuple[str, ...]) -> Columns | None:
    """Some arrays of a shard without unpickling anything; None where it holds none of them."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as shard:
            return {name: shard[prefix + name] for name in names} if prefix + names[0] in shard else None
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, zlib.error, BadZipFile) as error:
        raise InputError(
            f"{path} must be a shard of a search (.npz, no pickles), but cannot be read: {error}"
        ) from error
