"""The GPU benchmark: search and repair of one pair on the CPU and on a GPU, each twice.

    python benchmarks/gpu.py            500 seeds, 500 steps
    python benchmarks/gpu.py --quick    50 seeds, 50 steps
    python benchmarks/gpu.py --check    exit 1 when two searches on the GPU end differently, or a model stays behind

The pair is the original and the distilled LeNet-5 of MNIST as `.pt2` files, found under $DFLARE_BENCH (default: the
folder `shared` beside the project). Printed are throughputs, the share of seeds that end exactly as on the CPU (same
ending, same number of queries, same image), and whether a second run on the same device is the same. The CPU gets all
cores (`--threads` changes that). Without a GPU nothing is measured, and that is said.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before torch is imported, for equal sums on a GPU

import torch
from torch import Tensor

from dflare.classifiers import ModelPair, ask
from dflare.errors import InputError
from dflare.models.placement import place
from dflare.search import Ending, Tally
from experiments.config import Config
from experiments.devices import describe, device_of, usable_gpus
from experiments.environment import environment
from experiments.process import prepare as prepare_process
from measure import Effort, prepare, timed
from pairs import PAIRS, Subject, open_pair, open_subject
from repair.data import Examples, Mixture, RepairData
from repair.fit import Schedule, fit_steps
from repair.opening import open_trainable
from repair.recipes import RECIPES

PAIR, ENDING = "mnist_lenet-5-distilled", ".pt2"
STRATEGIES = ("boundary", "dflare")
CLEAN = 2000
"""Training images that are replayed in the repair."""

Endings = dict[int, tuple[str, int, bytes]]
"""Id of a seed -> how its search ended, after how many queries, and the last image."""


@dataclass(frozen=True)
class Row:
    """One kind of work on one device; `same` and `apart` compare with the first device, the CPU."""

    work: str  # a strategy, or "repair"
    device: str
    seconds: float  # the shorter of two runs
    per_second: float  # candidates asked, or images trained on
    found: int | None  # triggers
    same: float | None  # share of the seeds that end identically
    apart: float | None  # greatest difference of a repaired weight
    repeatable: bool  # whether the second run was the same as the first
    stays: list[str]  # why models stayed on the CPU


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and return the exit code: 0, 1 for what `--check` is about, 2 for bad input."""
    options = _parser().parse_args(arguments)
    prepare_process(Config(threads=options.threads))
    rows: list[Row] = []
    devices = [torch.device("cpu")]
    try:
        if usable_gpus()[0]:
            devices.append(device_of("gpu"))
            rows = measure_all(devices, *((50, 50) if options.quick else (500, 500)))
        else:
            print(f"nothing is measured without a GPU that torch can use: {usable_gpus()[1]}")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        content = {
            "environment": environment({}),
            "devices": [describe(device) for device in devices],
            "rows": [asdict(row) for row in rows],
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return _verdict(rows) if options.check else 0


def measure_all(devices: Sequence[torch.device], seeds: int, steps: int) -> list[Row]:
    """Every kind of work on every device, printed as it ends; the first device is what others are compared with."""
    subject = open_subject(PAIRS[PAIR], seeds, ENDING)
    rows, triggers = [], subject.seeds.images
    for strategy in STRATEGIES:
        reference: Endings | None = None
        for device in devices:
            row, endings, found = _search(subject, strategy, device, reference)
            reference = endings if reference is None else reference
            triggers = found if len(found) and device == devices[0] else triggers
            rows.append(row)
            print(_line(row), flush=True)
    weights: dict[str, Tensor] | None = None
    for device in devices:
        row, trained = _repair(subject, triggers, device, steps, weights)
        weights = trained if weights is None else weights
        rows.append(row)
        print(_line(row), flush=True)
    return rows


def _search(
    subject: Subject, strategy: str, device: torch.device, reference: Endings | None
) -> tuple[Row, Endings, Tensor]:
    """The row of a search, how its seeds ended, and the triggers found, uint8 (n, c, h, w)."""
    effort, stays, runs = Effort(shrunk=()), [], []
    for _ in range(2):
        placed = replace(subject, pair=_on(device, stays), confirm=_on(device, stays))
        list(prepare(placed, strategy, replace(effort, max_queries=3)).run([subject.seeds]))  # warm-up
        tally, search = Tally(), prepare(placed, strategy, effort)
        ended, seconds = timed(lambda search=search, tally=tally: list(search.run([subject.seeds], tally)))
        endings: Endings = {}
        for one in ended:
            for chain in zip(one.chains.seed.tolist(), one.chains.queries.tolist(), one.chains.images, strict=True):
                endings[chain[0]] = one.ending.name, chain[1], chain[2].numpy().tobytes()
        found = [one.chains.images for one in ended if one.ending is Ending.deviated]
        runs.append((endings, seconds, tally.queries, torch.cat([*found, subject.seeds.images[:0]])))
    (endings, _, queries, triggers), seconds = runs[0], min(run[1] for run in runs)
    same = None if reference is None else sum(endings[seed] == reference[seed] for seed in endings) / len(endings)
    repeatable = runs[0][0] == runs[1][0]
    row = Row(
        strategy, str(device), seconds, queries / seconds, len(triggers), same, None, repeatable, sorted(set(stays))
    )
    return row, endings, triggers


def _on(device: torch.device, stays: list[str]) -> ModelPair:
    pair = open_pair(PAIRS[PAIR], ENDING)
    return ModelPair(place(pair.original, device, stays.append), place(pair.compressed, device, stays.append))


def _repair(
    subject: Subject, triggers: Tensor, device: torch.device, steps: int, reference: dict[str, Tensor] | None
) -> tuple[Row, dict[str, Tensor]]:
    """The row of a repair by so many steps, and the weights that come out."""
    original, clean = subject.pair.original, subject.others[:CLEAN]
    examples = [Examples(images, ask(original, images).softmax(-1)) for images in (triggers, clean)]
    schedule = Schedule(steps, 1e-3, steps, 1, device)
    runs: list[tuple[dict[str, Tensor], float]] = []
    for _ in range(2):
        data = RepairData(Mixture(examples[0], examples[1], 128, 0.5, 0), steps, *examples)
        trainable = open_trainable(subject.files[1])
        fitted, seconds = timed(
            lambda trainable=trainable, data=data: fit_steps(trainable, data, RECIPES["imitation"], schedule, steps)
        )
        runs.append((fitted.weights, seconds))
    (weights, _), seconds = runs[0], min(run[1] for run in runs)
    apart = None if reference is None else _apart(weights, reference)
    row = Row(
        "repair", str(device), seconds, steps * 128 / seconds, None, None, apart, _apart(weights, runs[1][0]) == 0, []
    )
    return row, weights


def _apart(weights: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    return max(float((weights[name] - others[name]).abs().max()) for name in weights)


def _line(row: Row) -> str:
    unit = "images" if row.work == "repair" else "queries"
    parts = [f"{row.work:9} {row.device:7} {row.seconds:7.2f} s {row.per_second:10,.0f} {unit}/s"]
    if row.found is not None:
        parts.append(f"{row.found} triggers")
    if row.same is not None:
        parts.append(f"{row.same:.1%} of the seeds end as on the CPU")
    if row.apart is not None:
        parts.append(f"weights differ from the CPU's by up to {row.apart:.2g}")
    parts.append("a second run is the same" if row.repeatable else "a second run differs")
    return ", ".join([*parts, *(f"a model stays on the CPU: {why}" for why in row.stays)])


def _verdict(rows: list[Row]) -> int:
    """1 when two searches on one device end differently, or a model stayed on the CPU."""
    bad = [row for row in rows if row.stays or (row.work != "repair" and not row.repeatable)]
    for row in bad:
        print(f"short: {_line(row)}", file=sys.stderr)
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare search and repair on a GPU with those on the CPU.")
    parser.add_argument("--quick", action="store_true", help="50 seeds and steps in place of 500")
    parser.add_argument("--check", action="store_true", help="exit 1 when two searches on the GPU end differently")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to a file")
    parser.add_argument("--threads", type=int, metavar="N", help="of torch on the CPU (default: one a core)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
