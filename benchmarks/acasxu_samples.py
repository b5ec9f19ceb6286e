"""The rows of the ACAS Xu benchmark and their samples: drawn here, or BIRDNN's own."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dflare.errors import InputError
from pairs import bench_folder
from repair.properties.networks import NetworkFile
from repair.properties.property import Property
from repair.properties.sampling import draw_samples

Pair = tuple[Tensor, Tensor]
"""Counterexamples and safe inputs, float32 (n, 5) each."""


@dataclass(frozen=True)
class Row:
    """A network N(a, tau) and the number of a property."""

    a: int
    tau: int
    number: int

    @property
    def name(self) -> str:
        """As the tables of the field write it."""
        return f"N{self.a},{self.tau} phi{self.number}"

    def paths(self) -> tuple[Path, Path]:
        """The network and the property; raises `InputError` where they are missing."""
        folder = bench_folder() / "data" / "acasxu"
        paths = (
            folder / "onnx" / f"ACASXU_run2a_{self.a}_{self.tau}_batch_2000.onnx",
            folder / "vnnlib" / f"prop_{self.number}.vnnlib",
        )
        if missing := [path for path in paths if not path.is_file()]:
            raise InputError(f"expected {missing[0]}, found none; set DFLARE_BENCH to the folder of the benchmark data")
        return paths


SAFE = {(3, 3), (4, 2)}
"""Networks that satisfy property 2."""

ROWS = [
    *(Row(a, tau, 2) for a in (2, 3, 4, 5) for tau in range(1, 10) if (a, tau) not in SAFE),
    Row(1, 9, 7),
    Row(2, 9, 8),
]
"""VeRe's 36 rows (Ma et al., ICSE 2024)."""

QUICK = [Row(2, 1, 2), Row(3, 6, 2), Row(2, 9, 8)]

FILES = {Row(1, 9, 7): "N19", Row(2, 9, 8): "N29"}
"""Rows of which BIRDNN's own samples exist, and their folder."""


@dataclass(frozen=True)
class Sides:
    """What a row is repaired with and judged on, drawn apart."""

    train: Pair
    unseen: Pair
    source: str  # uniform, splitting or file
    share: float | None  # of counterexamples in the boxes, estimated
    seconds: float  # wall time of the sampling


def sample_sides(row: Row, opened: NetworkFile, wanted: Property, n: int, own: bool, seed: int) -> Sides:
    """Samples to repair with and to judge on; BIRDNN's own where they can be read, unless `own`."""
    began = time.perf_counter()
    if row in FILES and not own and (read := read_birdnn(FILES[row], opened, wanted, n)):
        return Sides(*read, "file", None, time.perf_counter() - began)
    drawn = [
        draw_samples(opened.network, wanted, n, torch.Generator().manual_seed(2 * seed + side)) for side in range(2)
    ]
    train, unseen = ((one.counterexamples, one.safe) for one in drawn)
    return Sides(train, unseen, drawn[0].method, drawn[0].share, time.perf_counter() - began)


def read_birdnn(folder: str, opened: NetworkFile, wanted: Property, n: int) -> tuple[Pair, Pair] | None:
    """BIRDNN's samples to repair with and to judge on, at most n of each; None without h5py or the files.

    Only those that are what they are called are kept: N1,9 has 6,005 counterexamples without the duplicates, and of
    the 10,016 "safe" inputs of N2,9 half lie outside the box of property 8.
    """
    place = bench_folder() / "data" / "birdnn" / folder
    names = (("counterexample", "drawndown"), ("counterexample_test", "drawndown_test"))
    try:
        import h5py
    except ImportError:
        return None
    if not all((place / f"{name}.h5").is_file() for pair in names for name in pair):
        return None
    sides = []
    for pair in names:
        parts = []
        for name, violating in zip(pair, (True, False), strict=True):
            with h5py.File(place / f"{name}.h5") as file:
                inputs = torch.from_numpy(file[name][:]).float().unique(dim=0)
            with torch.no_grad():
                violated = wanted.violated(inputs, opened.network(inputs))
            kept = inputs[wanted.contains(inputs) & (violated == violating)]
            parts.append(kept[torch.randperm(len(kept), generator=torch.Generator().manual_seed(0))[:n]])
        sides.append((parts[0], parts[1]))
    return sides[0], sides[1]
