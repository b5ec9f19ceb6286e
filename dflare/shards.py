"""A folder of search results that survives being killed: shards of ended chains, appended and never rewritten."""

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dflare.errors import InputError
from dflare.search import Ended, Ending
from dflare.triggers import Side, TriggerSet, concatenate, read_arrays

ENDINGS = tuple(Ending)
_MEND = "delete it and run the same command, its seeds are searched again"
_COLUMNS = ("seeds", "sides", "endings", "queries", "ties", "unconfirmed")


@dataclass(frozen=True)
class Endings:
    """How every chain of a folder ended, side by side; each field is (n,)."""

    seeds: Tensor  # int64
    sides: Tensor  # uint8, see `Side`
    endings: Tensor  # uint8, index into `ENDINGS`
    queries: Tensor  # int64
    ties: Tensor  # int64, candidates whose labels differed by a tie only
    unconfirmed: Tensor  # int64, candidates that deviated in a batch but not asked alone

    def __len__(self) -> int:
        return len(self.seeds)

    def side(self, side: Side) -> "Endings":
        """The chains whose seeds are on that side."""
        rows = self.sides == int(side)
        return Endings(*(getattr(self, name)[rows] for name in _COLUMNS))

    def which(self, ending: Ending) -> Tensor:
        """Which chains ended that way, (n,) bool."""
        return self.endings == ENDINGS.index(ending)


class Shards:
    """Results of searches in one folder: `triggers-<rank>-<k>.npz`, each written once, under its name only when whole.

    `add` collects ended chains and writes them out once a batch's worth is there or a second has passed, so that a
    kill loses about the batch in flight. Opening the folder again continues it.
    """

    def __init__(self, folder: Path, rank: int = 0, largest: int = 256, clock: Callable[[], float] = time.monotonic):
        self.folder, self.rank, self.largest, self.clock = folder, rank, largest, clock
        self._waiting: list[tuple[Side, Ended]] = []
        self._since = clock()
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f".triggers-{rank}-*.tmp"):
            leftover.unlink()
        self._number = _next_number(folder, "triggers", rank)

    def add(self, side: Side, ended: Ended) -> None:
        """Keep chains that ended; those that ran out of time are left for the continued run."""
        if ended.ending is Ending.timed_out:
            return
        if self._waiting and self._waiting[0][0] is not side:
            self.flush()
        if not self._waiting:
            self._since = self.clock()
        self._waiting.append((side, ended))
        if sum(len(e.chains) for _, e in self._waiting) >= self.largest or self.clock() - self._since > 1:
            self.flush()

    def flush(self) -> None:
        """Write out what waits, atomically: temporary name, fsync, rename.

        What is being written no longer waits: an interrupt here may lose it, the continued run searches it again, but
        no chain is ever written twice.
        """
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        number, self._number = self._number, self._number + 1
        arrays = _ended_arrays(waiting)
        found = [TriggerSet.of(e, side) for side, e in waiting if e.ending is Ending.deviated]
        if found:
            arrays |= concatenate(found).arrays()
        temporary = self.folder / f".triggers-{self.rank}-{number}.tmp"
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.folder / f"triggers-{self.rank}-{number}.npz")
        _sync(self.folder)


def read_endings(folder: Path) -> Endings:
    """How every finished chain of the folder ended, ordered by side and seed."""
    shards = [_read(path) for path in _paths(folder)]
    columns = [_column(shards, f"ended_{name}") for name in _COLUMNS]
    order = _order(columns[1], columns[0])
    return Endings(*(column[order] for column in columns))


def read_triggers(folder: Path, shrunk: bool = True) -> TriggerSet | None:
    """All triggers of the folder, ordered by side and seed, None where there are none.

    Those that `write_shrunk` has written take the place of those that were found, unless `shrunk` is False.
    """
    shards = [_read(path) for path in _paths(folder)]
    sets = [TriggerSet.from_arrays(shard) for shard in shards if "trigger_seeds" in shard]
    if not sets:
        return None
    found = concatenate(sets)
    found = found.take(_order(found.sides, found.seeds))
    nearer = read_shrunk(folder) if shrunk else None
    return found if nearer is None else found.replaced(nearer)


def read_shrunk(folder: Path) -> TriggerSet | None:
    """The shrunk triggers in the folder, None where there are none."""
    sets = [TriggerSet.load(path) for path in _numbered(folder, "shrunk")]
    return concatenate(sets) if sets else None


def write_shrunk(folder: Path, triggers: TriggerSet, rank: int = 0) -> None:
    """Add shrunk triggers to the folder in a file of their own, whole or not at all."""
    number = _next_number(folder, "shrunk", rank)
    temporary = folder / f".shrunk-{rank}-{number}.tmp"
    with temporary.open("wb") as file:
        np.savez_compressed(file, **triggers.arrays())  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(folder / f"shrunk-{rank}-{number}.npz")
    _sync(folder)


def shard_side(path: Path) -> Side:
    """The side that one shard is about; a shard is never about two."""
    return Side(int(_read(path)["ended_sides"][0]))


def write_index(folder: Path) -> None:
    """Write `index.jsonl`, one line a trigger, for readers of the folder; derived from the shards."""
    found = read_triggers(folder)
    lines = []
    if found is not None:
        (original, compressed), distances, paths = found.outputs.labels, found.distances, found.path.lists()
        for row in range(len(found)):
            line = {
                "seed": f"{int(found.seeds[row]):016x}",
                "side": Side(int(found.sides[row])).name,
                "original": int(original[row]),
                "compressed": int(compressed[row]),
                "queries": int(found.queries[row]),
                "shrink_queries": int(found.shrink_queries[row]),
                "path": paths[row].tolist(),
                **{name: round(float(distance[row]), 6) for name, distance in distances.items()},
            }
            lines.append(json.dumps(line))
    temporary = folder / ".index.jsonl.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        file.write("".join(line + "\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(folder / "index.jsonl")
    _sync(folder)


def _sync(folder: Path) -> None:
    """Make the names in a folder last, not only what is in the files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _ended_arrays(waiting: list[tuple[Side, Ended]]) -> dict[str, np.ndarray]:
    columns: dict[str, list[Tensor]] = {name: [] for name in _COLUMNS}
    for side, ended in waiting:
        n = len(ended.chains)
        columns["seeds"].append(ended.chains.seed)
        columns["sides"].append(torch.full((n,), int(side), dtype=torch.uint8))
        columns["endings"].append(torch.full((n,), ENDINGS.index(ended.ending), dtype=torch.uint8))
        for name in ("queries", "ties", "unconfirmed"):
            columns[name].append(getattr(ended.chains, name))
    return {f"ended_{name}": torch.cat(parts).cpu().numpy() for name, parts in columns.items()}


def _read(path: Path) -> dict[str, np.ndarray]:
    arrays = read_arrays(path, *(f"ended_{name}" for name in _COLUMNS))
    missing = [name for name in TriggerSet.names() if name not in arrays] if "trigger_seeds" in arrays else []
    if missing:
        raise InputError(f"expected all of a trigger's arrays in {path}, but it lacks {', '.join(missing)}; {_MEND}")
    return arrays


def _paths(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"expected a folder of search results at {folder}, found none")
    return list(_numbered(folder, "triggers"))


def _numbered(folder: Path, prefix: str) -> dict[Path, tuple[int, int]]:
    """The folder's files `<prefix>-<rank>-<k>.npz` in order, with rank and k; others, such as copies, are not ours."""
    form = re.compile(rf"{prefix}-(\d+)-(\d+)\.npz")
    found = {path: match for path in sorted(folder.glob(f"{prefix}-*.npz")) if (match := form.fullmatch(path.name))}
    return {path: (int(match[1]), int(match[2])) for path, match in found.items()}


def _next_number(folder: Path, prefix: str, rank: int) -> int:
    return 1 + max((k for owner, k in _numbered(folder, prefix).values() if owner == rank), default=-1)


def _column(shards: list[dict[str, np.ndarray]], name: str) -> Tensor:
    parts = [torch.from_numpy(shard[name]) for shard in shards]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


def _order(sides: Tensor, seeds: Tensor) -> Tensor:
    by_seed = seeds.argsort(stable=True)
    return by_seed[sides[by_seed].to(torch.int64).argsort(stable=True)]
