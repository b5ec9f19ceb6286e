"""The search benchmark: every strategy on every pair, same seeds, one run.

    python benchmarks/search.py            everything (an hour and more)
    python benchmarks/search.py --quick    three pairs, three strategies, few seeds, under a minute
    python benchmarks/search.py --check    exit 1, naming each figure of issue 3 (point 8) that falls short

Pairs and images are found under $DFLARE_BENCH (default: the folder `shared` beside the project). The seeds of a pair
are the first N test images, in official order, on which both its models give one label; all strategies get the same.
Strategies that go by images of other classes get the first training images (`--references`), asked once before the
search: that time counts, the questions stand in a column of their own.
Pairs that come as `.onnx` and `.pt2` are measured as `.onnx`, whose runtime is the faster (`--format` changes that).
All is measured with one thread, after a warm-up, and triggers count only when they deviate asked alone.
The released loop stops at any two labels that differ. Where some of them are ties, which are no triggers here, the
loop is run once more without stopping at those (`sequential-untied`). OpenCV: `pip install --group benchmark`.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

import table
from dflare.errors import InputError
from dflare.strategies import STRATEGIES
from experiments.environment import environment
from measure import SEQUENTIAL, UNTIED, Effort, Row, measure
from pairs import PAIRS, Kind, find_kinds, open_subject
from workers import Comparison, compare

QUICK_PAIRS = "mnist_lenet-5-int8,mnist_lenet-5-distilled,diffchaser-lenet5"
QUICK_STRATEGIES = (SEQUENTIAL, table.RELEASED, table.BEST)
WORKERS_PAIR = "diffchaser-resnet"


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and return the exit code: 0, 1 for a figure that falls short, 2 for bad input."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    try:
        kinds = find_kinds(options.pairs or (QUICK_PAIRS if options.quick else None))
        strategies = _strategies(options.strategies, options.quick)
        effort = _effort(options)
        rows = _measure_all(kinds, strategies, effort, options)
        two = _two_workers(effort, options)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    figures = table.figures(rows, two.ratio if two else None)
    print("\n" + "\n".join(table.summary_lines(rows)))
    if two:
        print(f"\n{two.pair}, {two.seeds} seeds: one worker {two.one:.1f} s, two {two.two:.1f} s, {two.ratio:.2f}x")
    print("\nFigures of issue 3, point 8\n" + "\n".join(figure.line() for figure in figures))
    if options.json:
        _write(options.json, rows, figures, two, options)
    restricted = bool(options.quick or options.pairs or options.strategies)
    return _verdict(figures, restricted) if options.check else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure search strategies on pairs of original and compressed model.")
    parser.add_argument("--quick", action="store_true", help="few pairs, strategies and seeds: under a minute")
    parser.add_argument("--check", action="store_true", help="exit 1 when a figure of the issue falls short")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything to a file")
    parser.add_argument("--seeds", type=int, metavar="N", help="seed images a pair (default 500, quick 100)")
    parser.add_argument("--pairs", metavar="A,B", help=f"some of {', '.join(PAIRS)}")
    parser.add_argument("--strategies", metavar="A,B", help=f"some of {', '.join([SEQUENTIAL, *STRATEGIES])}")
    parser.add_argument("--format", choices=["onnx", "pt2"], default="onnx", help="of pairs that come in both")
    parser.add_argument("--max-queries", type=int, default=Effort.max_queries, metavar="N", help="budget of a seed")
    parser.add_argument("--batch-size", type=int, metavar="N", help="default by the size of the images, quick 64")
    parser.add_argument("--references", type=int, default=Effort.references, metavar="N", help="images asked before")
    parser.add_argument("--shrink-queries", type=int, default=Effort.shrink_queries, metavar="N", help="of a trigger")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: steadier on a busy machine")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all randomness (default 0)")
    return parser


def _strategies(names: str | None, quick: bool) -> list[str]:
    """Those asked for, by default all; the ones that others are divided by come first."""
    known = [SEQUENTIAL, *STRATEGIES]
    default = [name for name in known if name in QUICK_STRATEGIES] if quick else known
    wanted = default if names is None else names.split(",")
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InputError(f"--strategies must be some of {', '.join(known)}, got {unknown[0]!r}")
    bases = (SEQUENTIAL, table.RELEASED)
    return [name for name in bases if name in wanted] + [name for name in wanted if name not in bases]


def _measure_all(kinds: list[Kind], strategies: list[str], effort: Effort, options: argparse.Namespace) -> list[Row]:
    print(table.LEGEND)
    missing = {table.BEST, table.RELEASED, SEQUENTIAL} - set(strategies)
    if missing:
        print(f"without {', '.join(sorted(missing))}: figures that need it are not measured")
    rows: list[Row] = []
    for kind in kinds:
        subject = open_subject(kind, _seeds(options), f".{options.format}")
        print(f"\n{kind.name} ({kind.family})\n{table.headings()}", flush=True)
        for strategy in strategies:
            for name in (strategy, UNTIED) if strategy == SEQUENTIAL else (strategy,):
                if name != UNTIED or rows[-1].tied:
                    rows.append(measure(subject, name, effort))
                    print(table.row_line(rows[-1], rows), flush=True)
    return rows


def _two_workers(effort: Effort, options: argparse.Namespace) -> Comparison | None:
    """One worker against two on ResNet-20, unless the pairs or strategies asked for leave that out."""
    if options.quick or (options.pairs and WORKERS_PAIR not in options.pairs.split(",")):
        return None
    if table.BEST not in STRATEGIES or (options.strategies and table.BEST not in options.strategies.split(",")):
        return None
    seeds = open_subject(PAIRS[WORKERS_PAIR], 2 * _seeds(options)).seeds
    return compare(WORKERS_PAIR, table.BEST, seeds, effort, f".{options.format}")


def _effort(options: argparse.Namespace) -> Effort:
    size = options.batch_size if options.batch_size is not None else (64 if options.quick else Effort.batch_size)
    return Effort(
        run_seed=options.seed,
        max_queries=options.max_queries,
        batch_size=size,
        references=options.references,
        cpu_time=options.clock == "cpu",
        shrink_seeds=20 if options.quick else Effort.shrink_seeds,
        shrink_queries=options.shrink_queries,
    )


def _seeds(options: argparse.Namespace) -> int:
    count = options.seeds if options.seeds is not None else (100 if options.quick else 500)
    if count < 1:
        raise InputError(f"--seeds must be at least 1, got {count}")
    return count


def _write(
    path: Path,
    rows: list[Row],
    figures: list[table.Figure],
    two: Comparison | None,
    options: argparse.Namespace,
) -> None:
    content = {
        "environment": environment({}),
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()},
        "seeds": _seeds(options),
        "rows": [asdict(row) for row in rows],
        "summary": table.summary(rows),
        "figures": [{**asdict(figure), "verdict": figure.verdict} for figure in figures],
        "workers": {**asdict(two), "ratio": two.ratio} if two else None,
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _verdict(figures: list[table.Figure], restricted: bool) -> int:
    """1 when a figure falls short, or was not measured by a run that was to measure all."""
    failed = [one for one in figures if one.verdict == "short" or (one.measured is None and not restricted)]
    for figure in failed:
        print(f"{figure.verdict}: {figure.name}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
