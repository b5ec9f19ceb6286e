"""A row of the ACAS Xu benchmark: samples, a repair, the written network, and what it came to."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acasxu_students import student_file
from dflare.errors import InputError
from pairs import bench_folder
from repair.properties.birdnn import Retraining, fine_tune, retrain
from repair.properties.care import care
from repair.properties.dense import DenseNetwork
from repair.properties.factors import FactorSettings
from repair.properties.hinge import HingeSettings, hinge_repair
from repair.properties.networks import NetworkFile, open_network, run_onnx
from repair.properties.pac import samples_needed, state
from repair.properties.property import Property
from repair.properties.sampling import draw_samples
from repair.properties.vnnlib import read_vnnlib

SAMPLES = 10_000
"""Counterexamples, and safe inputs, to repair and again to judge (VeRe, Ma et al., ICSE 2024)."""

DOMAIN = 7
"""The property whose box is the whole domain of the networks."""

STUDENTS = Path(tempfile.gettempdir()) / "dflare-acasxu-students"
"""Where networks with other activations are kept once they are trained."""

EPSILON, DELTA = 1e-4, 1e-3
"""Of the statement on fresh samples."""


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
"""VeRe's 36 rows."""

QUICK = [Row(2, 1, 2), Row(3, 6, 2), Row(2, 9, 8)]

FILES = {Row(1, 9, 7): "N19", Row(2, 9, 8): "N29"}
"""Rows of which BIRDNN's own samples exist."""


@dataclass(frozen=True)
class Sides:
    """What a row is repaired with and judged on, float32 (n, 5) each."""

    train: tuple[Tensor, Tensor]  # counterexamples and safe inputs
    unseen: tuple[Tensor, Tensor]
    source: str  # uniform, splitting or file
    share: float | None  # of counterexamples in the boxes, estimated
    seconds: float


def least(outputs: Tensor) -> Tensor:
    """The advisory: the score that is least."""
    return outputs.argmin(-1)


def hinge(network: DenseNetwork, wanted: Property, sides: Sides, domain: Tensor, seed: int) -> dict[str, Tensor]:
    """The default: hinge + fidelity."""
    generator = torch.Generator().manual_seed(seed)
    return dict(hinge_repair(network, wanted, *sides.train, domain, generator).weights)


def plain(network: DenseNetwork, wanted: Property, sides: Sides, domain: Tensor, seed: int) -> dict[str, Tensor]:
    """The hinge on counterexamples alone: nothing holds the network where it was."""
    generator = torch.Generator().manual_seed(seed)
    nothing = torch.empty(0, network.inputs)
    settings = HingeSettings(fidelity=0.0)
    return dict(hinge_repair(network, wanted, sides.train[0], nothing, nothing, generator, settings).weights)


def birdnn_retrain(
    network: DenseNetwork, wanted: Property, sides: Sides, domain: Tensor, seed: int
) -> dict[str, Tensor]:
    """BIRDNN's retraining."""
    return retrain(network, *sides.train, Retraining(), torch.Generator().manual_seed(seed))


def birdnn_tune(network: DenseNetwork, wanted: Property, sides: Sides, domain: Tensor, seed: int) -> dict[str, Tensor]:
    """BIRDNN's fine-tuning."""
    generator = torch.Generator().manual_seed(seed)
    return fine_tune(network, wanted, *sides.train, least, FactorSettings(), generator)


def by_care(network: DenseNetwork, wanted: Property, sides: Sides, domain: Tensor, seed: int) -> dict[str, Tensor]:
    """CARE."""
    return care(network, wanted, *sides.train, least, torch.Generator().manual_seed(seed))


METHODS: dict[str, Callable[[DenseNetwork, Property, Sides, Tensor, int], dict[str, Tensor]]] = {
    "hinge": hinge,
    "plain": plain,
    "birdnn-retrain": birdnn_retrain,
    "birdnn-finetune": birdnn_tune,
    "care": by_care,
}
"""Name -> repair; the first is the default."""


def sample_sides(row: Row, opened: NetworkFile, wanted: Property, n: int, own: bool, seed: int) -> Sides:
    """Samples to repair with and to judge on, drawn apart; BIRDNN's own where they exist, unless `own`."""
    began = time.perf_counter()
    if row in FILES and not own and (read := _read_birdnn(FILES[row], opened, wanted, n)):
        return Sides(*read, "file", None, time.perf_counter() - began)
    drawn = [
        draw_samples(opened.network, wanted, n, torch.Generator().manual_seed(2 * seed + side)) for side in range(2)
    ]
    train, unseen = ((one.counterexamples, one.safe) for one in drawn)
    return Sides(train, unseen, drawn[0].method, drawn[0].share, time.perf_counter() - began)


def measure(
    row: Row, method: str, n: int = SAMPLES, own: bool = False, seed: int = 0, activation: str = "Relu"
) -> dict[str, Any]:
    """The figures of a row, in plain numbers: rates in [0, 1], times in seconds; the written file is judged."""
    opened, wanted, box, sides = _prepared(row, n, own, seed, activation)
    domain = box.sample(n, torch.Generator().manual_seed(1000 + seed))
    began, worked = time.perf_counter(), time.process_time()
    weights = METHODS[method](opened.network, wanted, sides, domain, seed)
    took, cpu = time.perf_counter() - began, time.process_time() - worked
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "repaired.onnx"
        opened.write(weights, path)
        figures = _judge(opened.path, path, wanted, box, sides, seed)
    return {
        **asdict(row), "row": row.name, "method": method, "samples": n, "own": own, "seed": seed,
        "activation": activation, "source": sides.source, "share": sides.share, "sampling_seconds": sides.seconds,
        "seconds": took, "cpu_seconds": cpu, **figures,
    }  # fmt: skip


@lru_cache(maxsize=1)  # the methods of a row follow each other
def _prepared(row: Row, n: int, own: bool, seed: int, activation: str) -> tuple[NetworkFile, Property, Property, Sides]:
    """The network, its property, the property whose box is the domain, and the samples."""
    path, statement = row.paths()
    wanted, box = read_vnnlib(statement), read_vnnlib(Row(row.a, row.tau, DOMAIN).paths()[1])
    if activation != "Relu":
        path = student_file(path, activation, wanted, box, STUDENTS)
    opened = open_network(path)
    own = own or activation != "Relu"  # BIRDNN's samples belong to the published networks
    return opened, wanted, box, sample_sides(row, opened, wanted, n, own, seed)


def _judge(before: Path, after: Path, wanted: Property, box: Property, sides: Sides, seed: int) -> dict[str, Any]:
    """What the two files answer on the samples, on the domain, and on fresh samples of the property's boxes."""
    bad, safe = sides.unseen
    fresh = box.sample(20_000, torch.Generator().manual_seed(2000 + seed))

    def rate(mask: Tensor) -> float:
        return float(mask.double().mean())

    def agreement(inputs: Tensor) -> float:
        return rate(least(run_onnx(before, inputs)) == least(run_onnx(after, inputs)))

    statements = [
        state(
            lambda inputs, path=path: run_onnx(path, inputs),
            wanted,
            samples_needed(EPSILON, DELTA),
            DELTA,
            torch.Generator().manual_seed(3000 + seed),
        ).as_dict()
        for path in (before, after)
    ]
    return {
        "counterexamples": len(sides.train[0]),
        "unseen_counterexamples": len(bad),
        "repaired": rate(~wanted.violated(sides.train[0], run_onnx(after, sides.train[0]))),
        "unseen": rate(~wanted.violated(bad, run_onnx(after, bad))),
        "new_violations": rate(wanted.violated(safe, run_onnx(after, safe))),
        "agreement_box": agreement(safe),
        "agreement_domain": agreement(fresh),
        "statement_before": statements[0],
        "statement_after": statements[1],
    }


def _read_birdnn(
    folder: str, opened: NetworkFile, wanted: Property, n: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """BIRDNN's samples, those that are what they are called and lie in the box; None without h5py or the files."""
    names = (("counterexample", "drawndown"), ("counterexample_test", "drawndown_test"))
    place = bench_folder() / "data" / "birdnn" / folder
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
            parts.append(inputs[wanted.contains(inputs) & (violated == violating)])
        order = [torch.randperm(len(part), generator=torch.Generator().manual_seed(0))[:n] for part in parts]
        sides.append((parts[0][order[0]], parts[1][order[1]]))
    return sides[0], sides[1]
