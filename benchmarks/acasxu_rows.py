"""A row of the ACAS Xu benchmark: samples, a repair, the written network, and what it came to."""

import tempfile
import time
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from acasxu_samples import Row, Sides, sample_sides
from acasxu_students import student_file
from repair.properties import methods
from repair.properties.judging import Judges, judge, least
from repair.properties.methods import Method, Task
from repair.properties.networks import NetworkFile, open_network, run_onnx
from repair.properties.pac import samples_needed, state
from repair.properties.property import Property
from repair.properties.vnnlib import read_vnnlib

SAMPLES = 10_000
"""Counterexamples, and safe inputs, to repair and again to judge, as VeRe has them."""

DOMAIN = 7
"""The property whose box is the whole domain of the networks."""

STUDENTS = Path(tempfile.gettempdir()) / "dflare-acasxu-students"
"""Where networks with other activations are kept once they are trained."""

EPSILON, DELTA = 1e-4, 1e-3
"""Of the statement on fresh samples."""

METHODS: dict[str, Method] = {**methods.METHODS, "no-op": lambda task, generator: task.network.weights()}
"""Name -> repair; the first is the default, the last shows what every figure is without one."""


@dataclass(frozen=True)
class _Prepared:
    """What the methods of a row have in common."""

    opened: NetworkFile
    wanted: Property
    domain: Property  # its box is the whole domain
    sides: Sides
    before: dict[str, Any]  # the statement about the network as it is


def measure(
    row: Row, method: str, n: int = SAMPLES, own: bool = False, seed: int = 0, activation: str = "Relu"
) -> dict[str, Any]:
    """The figures of a row, in plain numbers: rates in [0, 1], times in seconds; the written file is judged."""
    ready = _prepared(row, n, own, seed, activation)
    anywhere = ready.domain.sample(n, torch.Generator().manual_seed(1000 + seed))
    task = Task(ready.opened.network, ready.wanted, *ready.sides.train, anywhere, least)
    began, worked = time.perf_counter(), time.process_time()
    weights = METHODS[method](task, torch.Generator().manual_seed(seed))
    took, cpu = time.perf_counter() - began, time.process_time() - worked
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "repaired.onnx"
        ready.opened.write(weights, path)
        figures = _judge(ready, path, seed)
    return {
        **asdict(row), "row": row.name, "method": method, "samples": n, "own": own, "seed": seed,
        "activation": activation, "source": ready.sides.source, "share": ready.sides.share,
        "sampling_seconds": ready.sides.seconds, "seconds": took, "cpu_seconds": cpu, **figures,
    }  # fmt: skip


@lru_cache(maxsize=1)  # the methods of a row follow each other
def _prepared(row: Row, n: int, own: bool, seed: int, activation: str) -> _Prepared:
    path, statement = row.paths()
    wanted, domain = read_vnnlib(statement), read_vnnlib(Row(row.a, row.tau, DOMAIN).paths()[1])
    if activation != "Relu":
        path = student_file(path, activation, wanted, domain, STUDENTS)
    opened = open_network(path)
    own = own or activation != "Relu"  # BIRDNN's samples belong to the published networks
    return _Prepared(
        opened, wanted, domain, sample_sides(row, opened, wanted, n, own, seed), _state(path, wanted, seed)
    )


def _judge(ready: _Prepared, after: Path, seed: int) -> dict[str, Any]:
    """What the file answers on the samples, on the domain, and on fresh samples of the property's boxes."""
    sides, fresh = ready.sides, ready.domain.sample(20_000, torch.Generator().manual_seed(2000 + seed))
    judges = Judges(sides.train[0], *sides.unseen, fresh)
    functions = (partial(run_onnx, path) for path in (ready.opened.path, after))
    found = asdict(judge(*functions, ready.wanted, judges, least))
    return {
        "counterexamples": len(sides.train[0]),
        "unseen_counterexamples": len(sides.unseen[0]),
        **{name: figure["value"] for name, figure in found.items()},
        "statement_before": ready.before,
        "statement_after": _state(after, ready.wanted, seed),
    }


def _state(path: Path, wanted: Property, seed: int) -> dict[str, Any]:
    """The statement about a file, the same fresh samples for every file."""
    samples, generator = samples_needed(EPSILON, DELTA), torch.Generator().manual_seed(3000 + seed)
    return state(partial(run_onnx, path), wanted, samples, DELTA, generator).as_dict()
