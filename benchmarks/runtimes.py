"""The runtime benchmark: how many images a second each backend answers, in which batches, and in whose company.

    python benchmarks/runtimes.py            everything (some ten minutes)
    python benchmarks/runtimes.py --quick    LeNet-5 alone, short measurements, under a minute when idle
    python benchmarks/runtimes.py --check    exit 1, naming each figure that falls short

Rates are images a second of the processor with one thread, medians of repetitions; two workers are two processes that
ask at the same time. Models are found under $DFLARE_BENCH (default: the folder `shared` beside the project).
TorchScript and `nn.Module` are the zoo's networks of the same architecture, int8 by torch's own graph mode; files of
a fixed batch are made of the `.onnx`. A figure that compares clocks needs a machine with two idle cores.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from backends import FOLDERS, Backend, backends
from crowding import SETUPS, Crowd, Workers
from dflare.errors import InputError
from experiments.environment import environment
from table import Figure
from throughput import ASKED, BATCHES, Cell, Effort, Fixed, fixed_batches, throughput

CROWD_BATCH = 64
"""Images that workers ask about at once."""

QUICK = Effort(seconds=0.02, repeats=3, crowd_seconds=0.2, crowded=(".onnx",))


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and return the exit code: 0, 1 for a figure that falls short, 2 for bad input."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    effort = QUICK if options.quick else Effort()
    try:
        wanted = backends(options.networks or ("LeNet-5" if options.quick else None))
        cells, fixed, crowds = _measure_all(wanted, effort)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    found = figures(cells, fixed, crowds)
    print("\n" + "\n".join(figure.line() for figure in found))
    if options.json:
        _write(options.json, cells, fixed, crowds, found)
    short = [figure for figure in found if figure.verdict == "short"]
    for figure in short:
        print(f"short: {figure.name}", file=sys.stderr)
    return 1 if options.check and short else 0


def _measure_all(wanted: Sequence[Backend], effort: Effort) -> tuple[list[Cell], list[Fixed], list[Crowd]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cells = throughput(wanted, effort, folder)
        print("\n".join(throughput_lines(cells)), flush=True)
        networks = [net for net in dict.fromkeys(one.network for one in wanted) if net in FOLDERS]
        fixed = [one for net in networks for one in fixed_batches(net, effort, folder)]
        print("\n" + "\n".join(fixed_lines(fixed)), flush=True)
        crowds = []
        with Workers(folder) as workers:
            for backend in wanted:
                if backend.runtime in effort.crowded:
                    crowds.append(workers.compare(backend, CROWD_BATCH, effort.crowd_seconds, effort.repeats))
        print("\n" + "\n".join(crowd_lines(crowds)), flush=True)
    return cells, fixed, crowds


def throughput_lines(cells: Sequence[Cell]) -> list[str]:
    """A row a backend: rates, their ratios to that of one image at a time, and to the float `.onnx` at that batch."""
    rates = {(cell.backend.name, cell.batch): cell.rate for cell in cells}
    walls = {(cell.backend.name, cell.batch): cell.wall_rate for cell in cells}
    lines = _head(
        ["network", "form", "runtime"],
        [
            *(f"images/s at {batch}" for batch in BATCHES),
            *(f"{batch} / 1" for batch in BATCHES[1:]),
            *(f"/ float .onnx at {batch}" for batch in BATCHES),
            "of the clock at 64",
        ],
    )
    for backend in dict.fromkeys(cell.backend for cell in cells):
        own = [rates[backend.name, batch] for batch in BATCHES]
        base = [rates.get((f"{backend.network} float .onnx", batch)) for batch in BATCHES]
        cells_ = [
            *(f"{rate:,.0f}" for rate in own),
            *(f"{rate / own[0]:.2f}" for rate in own[1:]),
            *(f"{rate / other:.2f}" if other else "-" for rate, other in zip(own, base, strict=True)),
            f"{walls[backend.name, 64]:,.0f}",
        ]
        lines.append(_row([backend.network, backend.form, f"`{backend.runtime}`", *cells_]))
    return lines


def fixed_lines(fixed: Sequence[Fixed]) -> list[str]:
    """A row a file: scores that are other bits, and its rate divided by that of the file of any batch."""
    lines = _head(["file", "batch"], ["other bits", "by at most", *(f"rate at {asked} / any batch" for asked in ASKED)])
    for one in fixed:
        ratios = [ours / theirs for ours, theirs in one.rates.values()]
        bits = f"{one.unequal:,} of {one.scores:,}"
        cells = [bits, f"{one.furthest:.1e}" if one.unequal else "0", *(f"{ratio:.2f}" for ratio in ratios)]
        lines.append(_row([f"`{one.file}`", str(one.batch), *cells]))
    return lines


def crowd_lines(crowds: Sequence[Crowd]) -> list[str]:
    """A row a backend: rates of the clock of every setup, against one worker, and the processors' time an image."""
    others = list(SETUPS)[1:]
    lines = _head(
        ["backend"],
        [
            "images/s: one worker",
            *(f"{name} / one" for name in others),
            *(f"time an image: {name} / one" for name in others),
        ],
    )
    for one in crowds:
        rates = [f"{one.rate(name, 'one'):.2f}" for name in others]
        costs = [f"{one.cost(name):.2f}" for name in others]
        lines.append(_row([f"{one.backend}", f"{one.asked['one'].rate:,.0f}", *rates, *costs]))
    return lines


def figures(cells: Sequence[Cell], fixed: Sequence[Fixed], crowds: Sequence[Crowd]) -> list[Figure]:
    """What the benchmark is to show: batches cost nothing, padding changes no bit, workers do not fight."""
    rates = {(cell.backend.name, cell.batch): cell.rate for cell in cells}
    slowed = [rates[name, batch] / rates[name, 1] for name, batch in rates if batch > 1]
    costs = [one.cost("two") for one in crowds]
    two = [one.rate("two", "one") for one in crowds]
    threads = [one.rate("two", "one process of two threads") for one in crowds]
    return [
        Figure("any batch against one image at a time, slowest backend", 0.9, False, min(slowed, default=None), "x"),
        Figure("scores of files with a fixed batch that are other bits", 0, True, sum(one.unequal for one in fixed)),
        Figure("time of the processors an image, two workers against one", 1.15, True, max(costs, default=None), "x"),
        Figure("images a second, two workers against one", 1.8, False, min(two, default=None), "x"),
        Figure("images a second, two workers against two threads", 1, False, min(threads, default=None), "x"),
    ]


def _head(left: Sequence[str], right: Sequence[str]) -> list[str]:
    return [_row([*left, *right]), _row([*[":--"] * len(left), *["--:"] * len(right)])]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _write(
    path: Path, cells: Sequence[Cell], fixed: Sequence[Fixed], crowds: Sequence[Crowd], found: Sequence[Figure]
) -> None:
    content = {
        "environment": environment({}),
        "throughput": [asdict(one) for one in cells],
        "fixed": [asdict(one) for one in fixed],
        "crowds": [asdict(one) for one in crowds],
        "figures": [{**asdict(figure), "verdict": figure.verdict} for figure in found],
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure how fast models answer, by runtime, batch and company.")
    parser.add_argument("--quick", action="store_true", help="LeNet-5 alone, short measurements: under a minute")
    parser.add_argument("--check", action="store_true", help="exit 1 when a figure falls short")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything to a file")
    parser.add_argument("--networks", metavar="A,B", help="some of LeNet-5, ResNet-20, ResNet-8 (default all)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
