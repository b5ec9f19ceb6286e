"""Domain-wise repair of ACAS Xu networks: VeRe's 36 rows, of which those are measured whose networks are there.

    python benchmarks/acasxu.py                      every row with the default method (some minutes of one core)
    python benchmarks/acasxu.py --quick              three rows (under a minute)
    python benchmarks/acasxu.py --methods hinge,care some methods; `all` for all of them and a no-op
    python benchmarks/acasxu.py --activation Tanh    students of the networks with tanh (or Elu), trained first
    python benchmarks/acasxu.py --check              exit 1 when the default method misses a figure of issue 6
    python benchmarks/acasxu.py --json rows.json     also write the rows; those that it holds are not measured again

Networks and properties are found under $DFLARE_BENCH/data/acasxu (default: the folder `shared` beside the project),
BIRDNN's samples of two rows beside them in data/birdnn, read where h5py is installed and --own is not given. A row
draws 10,000 counterexamples and 10,000 safe inputs to repair, and as many unseen ones to judge. Judged is the written
ONNX file, by ONNX Runtime. The time is that of the repair alone on one thread, apart from the sampling.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import kept_rows
from acasxu_rows import METHODS, SAMPLES, measure
from acasxu_samples import QUICK, ROWS, Row
from acasxu_table import HEADINGS, line, means, misses
from dflare.errors import InputError
from experiments.environment import environment

DEFAULT = "hinge"

IDENTITY = ("row", "method", "samples", "own", "seed", "activation")
"""Keys in which two rows are the same measurement."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table and the means, and return the exit code: 0, 1 for a figure missed, 2 for bad input."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    try:
        known = json.loads(options.json.read_text("utf-8"))["rows"] if options.json and options.json.exists() else []
        print(f"| {' | '.join(HEADINGS)} |\n| :-- | :-- |{' --: |' * (len(HEADINGS) - 2)}", flush=True)
        for row in measured(options, known):
            rows.append(row)
            if options.json:
                content = {"environment": environment({}), "rows": [*rows, *kept_rows.others(known, rows, IDENTITY)]}
                options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(["", *means(rows)]))
    default = [row for row in rows if row["method"] == DEFAULT]
    missed = misses(default) if default or not options.check else [f"no row of {DEFAULT} was measured"]
    for figure in missed:
        print(f"short: {figure}", file=sys.stderr)
    return 1 if options.check and missed else 0


def measured(options: argparse.Namespace, known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows asked for, printed as they come; known ones are taken over, those with nothing to repair left out."""
    methods = list(METHODS) if options.methods == "all" else options.methods.split(",")
    if unknown := [name for name in methods if name not in METHODS]:
        raise InputError(f"--methods must be `all` or some of {', '.join(METHODS)}, got {unknown[0]!r}")
    there = present(chosen(options))
    for row in there:
        for method in methods:
            asked = {"row": row.name, "method": method, "samples": options.samples, "own": options.own}
            asked |= {"seed": options.seed, "activation": options.activation}
            try:
                one = kept_rows.find(known, asked) or measure(row, method, *(asked[key] for key in IDENTITY[2:]))
            except InputError as error:  # such as a student that violates nothing
                print(f"{row.name} left out: {error}", file=sys.stderr)
                break
            print(line(one), flush=True)
            yield one


def chosen(options: argparse.Namespace) -> list[Row]:
    """The rows by name, the quick ones, or all."""
    if not options.rows:
        return QUICK if options.quick else ROWS
    names = {row.name.replace(" ", ":"): row for row in ROWS}
    asked = options.rows.split(";")
    if unknown := [name for name in asked if name not in names]:
        raise InputError(f"--rows must be some of {'; '.join(names)}, got {unknown[0]!r}")
    return [names[name] for name in asked]


def present(rows: Sequence[Row]) -> list[Row]:
    """The rows whose network is there; raises `InputError` where there is none at all, and says how many are not."""
    found, missing = [], None
    for row in rows:
        try:
            row.paths()
        except InputError as error:
            missing = error
        else:
            found.append(row)
    if missing and not found:
        raise missing
    if missing:
        print(f"{len(rows) - len(found)} of {len(rows)} rows left out: {missing}", file=sys.stderr)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Repair ACAS Xu networks by their properties.")
    parser.add_argument("--quick", action="store_true", help="three rows")
    parser.add_argument("--check", action="store_true", help="exit 1 when the default method misses a figure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows; those in it are not repeated")
    parser.add_argument("--methods", default=DEFAULT, metavar="A,B", help=f"all, or some of {', '.join(METHODS)}")
    parser.add_argument("--rows", metavar="A;B", help="some rows, such as N2,1:phi2;N1,9:phi7")
    parser.add_argument("--samples", type=int, default=SAMPLES, metavar="N", help=f"of each kind (default {SAMPLES})")
    parser.add_argument("--own", action="store_true", help="draw samples also where BIRDNN's exist")
    parser.add_argument(
        "--activation",
        default="Relu",
        choices=("Relu", "Tanh", "Elu"),
        help="of students (default: the networks themselves, Relu)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of samples and repair (default 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
