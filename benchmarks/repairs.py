"""Repair, judged: `dflare loop` on twelve third-party pairs, and the int8 ones again with more bits.

    python benchmarks/repairs.py --json rows.json   all rows, three seeds on MNIST and one on CIFAR-10 (hours)
    python benchmarks/repairs.py --quick            LeNet-5's distilled student, small (under a minute)
    python benchmarks/repairs.py --check            exit 1, naming every figure of issue 5 that falls short
    python benchmarks/repairs.py --jobs 2           two rows at a time, each on one thread

Models and images are found under $DFLARE_BENCH (default: the folder `shared` beside the project). A row is one run of
the command line, whose placebo, no-op and judging are the product's own (DESIGN, section 5); its figures are those of
`report.json`. Rows that the JSON file holds are not run again, and a row that was stopped goes on where its run folder
(below `--work`) stands. (Not `repair.py`: that name would hide the package from every script of this folder.)
"""

import argparse
import json
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import kept_rows
from dflare.errors import InputError
from experiments.environment import environment
from experiments.files import write_atomic
from repair_rows import BITS, DISTILLED, INT8, PRUNED, Row, measure, rows
from repair_table import figures, lines

COMMON = {"search.strategy": "dflare", "search.seeds": "5000", "localise.method": "null"}
LONG = {"repair.steps": "2000", "repair.learning_rate": "0.002", "repair.batch_size": "128"}
WIDER = {
    "repair.precision.activations": "all",
    "repair.precision.weights": "0.095",
    "repair.precision.max_bytes": "1.1",
}
WIDER |= {"repair.steps": "1000", "repair.learning_rate": "0.0003"}

SETTINGS: Mapping[str, Mapping[str, str]] = {
    DISTILLED: {**COMMON, **LONG, "repair.learning_rate": "0.01", "repair.recipe": "lead"},
    PRUNED: {**COMMON, **LONG, "repair.recipe": "logits"},
    INT8: {**COMMON, "search.strategy": "boundary", "repair.recipe": "int8"},
    BITS: {**COMMON, **WIDER, "search.strategy": "boundary", "repair.recipe": "logits"},
}
"""Column -> settings, chosen on LeNet-5 and SimpleCNN, see docs/repair.md."""

WALKS = {"search.strategy": "dflare", "search.seeds": "2000"}
"""For int8 models on whose seeds walks find triggers: LeNet-5 (on 84 of 100 in 1,000 queries; SimpleCNN: on 12)."""

RESNET = {"search.seeds": "6000", "probe.images": "10000", "gate.max_drawdown": "null"}
RESNET |= {"repair.steps": "1000", "repair.learning_rate": "0.0005"}
"""What differs on CIFAR-10: it has 15,000 training seeds, a question costs a hundred times more, and a repair that
breaks more than the gate allows is to be seen and not rolled back."""

SEEDS = {"mnist": 3, "cifar10": 1}

QUICK = {"search.seeds": "300", "search.judge_seeds": "100", "search.validate_seeds": "100", "probe.images": "2000"}
QUICK |= {"repair.steps": "100", "repair.validate_every": "50"}


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table and the figures; 0, 1 for figures that fall short under --check, 2 for bad input."""
    options = _parser().parse_args(arguments)
    try:
        wanted = _wanted(options)
        done = _measured(options, wanted)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(["", *lines(done), ""]))
    found = figures(done)
    print("\n".join(figure.line() for figure in found))
    short = [figure.line() for figure in found if figure.verdict != "ok"]
    if options.check and short:
        print("\n".join(["short:", *short]), file=sys.stderr)
    return 1 if options.check and short else 0


def settings_of(model: str, kind: str) -> dict[str, str]:
    """What a row of this model and column is run with."""
    own = {"cifar-10_resnet20": RESNET, "mnist_lenet-5": WALKS if kind in (INT8, BITS) else {}}
    return {**SETTINGS[kind], **own.get(model, {})}


def _wanted(options: argparse.Namespace) -> list[Row]:
    """The rows asked for."""
    if options.quick:
        return [Row("mnist_lenet-5", "distilled.pt2", DISTILLED, 0, {**SETTINGS[DISTILLED], **QUICK})]
    every = rows(settings_of, {name: options.seeds or count for name, count in SEEDS.items()})
    names = list(dict.fromkeys(row.pair for row in every))
    chosen = options.pairs.split(",") if options.pairs else names
    if unknown := [name for name in chosen if name not in names]:
        raise InputError(f"--pairs must be some of {', '.join(names)}, got {unknown[0]!r}")
    return [row for row in every if row.pair in chosen]


def _measured(options: argparse.Namespace, wanted: list[Row]) -> list[dict[str, Any]]:
    """The figures of all rows; those that the JSON file holds are taken from there, new ones added to it at once."""
    known = kept_rows.read(options.json)
    done = [row for row in known if any(_same(row, want) for want in wanted)]
    todo = [want for want in wanted if not any(_same(row, want) for row in known)]
    with ThreadPoolExecutor(options.jobs) as pool:
        running = [pool.submit(measure, row, options.work.resolve()) for row in todo]
        for finished in as_completed(running):
            row = finished.result()
            done, known = [*done, row], [*known, row]
            print(f"{row['pair']}, seed {row['seed']}: {row['words']}", file=sys.stderr, flush=True)
            if options.json:
                content = {"environment": environment({}), "rows": known}
                write_atomic(options.json, json.dumps(content, indent=1) + "\n")
    return done


def _same(known: Mapping[str, Any], row: Row) -> bool:
    return all(known.get(key) == value for key, value in row.identity.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Repair twelve third-party pairs and judge the repairs.")
    parser.add_argument("--quick", action="store_true", help="one pair, one seed, small numbers")
    parser.add_argument("--check", action="store_true", help="exit 1 when a figure of issue 5 is not reached")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the rows; rows it holds are not run again"
    )
    parser.add_argument("--pairs", metavar="NAMES", help="only these, separated by commas")
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="of every pair, in place of 3 on MNIST and 1 on CIFAR-10"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="rows at a time, each on one thread")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/benchmark-repair"), metavar="DIR", help="of run folders"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
