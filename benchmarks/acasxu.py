"""Domain-wise repair of ACAS Xu networks: VeRe's 36 rows, of which those are measured whose networks are there.

    python benchmarks/acasxu.py                      every row with the default method (some minutes of one core)
    python benchmarks/acasxu.py --quick              three rows (under a minute)
    python benchmarks/acasxu.py --methods hinge,care some methods; `all` for all of them
    python benchmarks/acasxu.py --activation Tanh    students of the networks with tanh (or Elu), trained first
    python benchmarks/acasxu.py --check              exit 1 when the default method misses a figure of issue 6
    python benchmarks/acasxu.py --json rows.json     also write the rows; those that it holds are not measured again

Networks and properties are found under $DFLARE_BENCH/data/acasxu (default: the folder `shared` beside the project),
BIRDNN's samples of two rows beside them in data/birdnn, read where h5py is installed and not asked for with --own.
A row draws 10,000 counterexamples and 10,000 safe inputs to repair, and as many unseen ones to judge. Judged is the
written ONNX file, by ONNX Runtime. The time is that of the repair alone on one thread, apart from the sampling.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from acasxu_rows import METHODS, QUICK, ROWS, SAMPLES, Row, measure
from dflare.errors import InputError
from experiments.environment import environment

HEADINGS = (
    *("row", "method", "counterexamples", "rate before", "repaired %", "unseen %", "new violations %"),
    *("agreement box %", "agreement domain %", "bound before", "bound after", "repair s", "sampling s"),
)

DEFAULT = "hinge"

FIGURES = {
    "repaired": (0.999, False),
    "unseen": (0.9999, False),
    "new_violations": (0.0001, True),
    "agreement_box": (0.99, False),
    "agreement_domain": (0.98, False),
    "seconds": (2.0, True),
}
"""Figure -> what the mean of the default method over the rows is to reach, and whether it is to stay below that."""

KEYS = ("row", "method", "samples", "own", "seed", "activation")
"""What says that a known row is the one asked for."""


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
                others = [one for one in known if not any(_same(one, row) for row in rows)]
                content = {"environment": environment({}), "rows": [*rows, *others]}
                options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    for method in dict.fromkeys(row["method"] for row in rows):
        print(means_line(method, [row for row in rows if row["method"] == method]))
    missed = misses([row for row in rows if row["method"] == DEFAULT])
    print("\n".join(f"short: {line}" for line in missed), file=sys.stderr)
    return 1 if options.check and missed else 0


def measured(options: argparse.Namespace, known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows asked for, printed as they come; those already known are taken over, missing networks left out."""
    methods = list(METHODS) if options.methods == "all" else options.methods.split(",")
    if unknown := [name for name in methods if name not in METHODS]:
        raise InputError(f"--methods must be `all` or some of {', '.join(METHODS)}, got {unknown[0]!r}")
    there = present(chosen(options))
    for row in there:
        for method in methods:
            asked = {"row": row.name, "method": method, "samples": options.samples, "own": options.own}
            asked |= {"seed": options.seed, "activation": options.activation}
            found = next((one for one in known if _same(one, asked)), None)
            one = found or measure(row, method, options.samples, options.own, options.seed, options.activation)
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


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    before, after = row["statement_before"], row["statement_after"]
    share = before["rate"] if row["share"] is None else row["share"]
    cells = [
        row["row"], f"`{row['method']}`", f"{row['counterexamples']} ({row['source']})", f"{share:.2g}",
        *(f"{100 * row[key]:.3f}" for key in ("repaired", "unseen", "new_violations")),
        *(f"{100 * row[key]:.2f}" for key in ("agreement_box", "agreement_domain")),
        f"{before['bound']:.2g}", f"{after['bound']:.2g}", f"{row['seconds']:.2f}", f"{row['sampling_seconds']:.1f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def means_line(method: str, rows: Sequence[dict[str, Any]]) -> str:
    """The means of a method over the rows, and the greatest bound after."""
    means = {key: fmean(row[key] for row in rows) for key in (*FIGURES, "sampling_seconds", "cpu_seconds")}
    return (
        f"mean of {len(rows)} rows, {method}: repaired {100 * means['repaired']:.3f} %, unseen "
        f"{100 * means['unseen']:.4f} %, new violations {100 * means['new_violations']:.4f} %, agreement in the box "
        f"{100 * means['agreement_box']:.2f} %, whole domain {100 * means['agreement_domain']:.2f} %, repair "
        f"{means['seconds']:.2f} s (cpu {means['cpu_seconds']:.2f} s), sampling {means['sampling_seconds']:.1f} s; "
        f"worst bound after {max(row['statement_after']['bound'] for row in rows):.2g}"
    )


def misses(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The figures that the means over these rows do not reach, in words; none where nothing was measured."""
    found = []
    for name, (target, at_most) in FIGURES.items() if rows else ():
        mean = fmean(row[name] for row in rows)
        if (mean > target) if at_most else (mean < target):
            found.append(f"mean {name} {'<=' if at_most else '>='} {target:g} wanted, measured {mean:.6g}")
    return found


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one.get(key) == other.get(key) for key in KEYS)


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
