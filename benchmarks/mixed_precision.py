"""The mixed precision benchmark: int8 ONNX files with 16-bit activations, what that repairs and what it costs.

    python benchmarks/mixed_precision.py                  LeNet-5, SimpleCNN and ResNet-20
    python benchmarks/mixed_precision.py --quick          fewer images, LeNet-5 only
    python benchmarks/mixed_precision.py --check          exit 1, naming each figure of issue 5 that is not reached

Models and images are found under $DFLARE_BENCH (default: the folder `shared` beside the project). Tensors are chosen,
ranges seen and weights trained on training images alone; probe, held-out triggers, clean images and accuracy are of
the test images. Triggers are searched against the file as handed in, and once more against the same file with a float
output: the first one's output is rounded and ties, so that most of its differing labels are no deviations.
Every row is a written file, opened again by ONNX Runtime.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse
import json
import sys
import tempfile
from pathlib import Path

from dflare.errors import InputError
from experiments.environment import environment
from mixed_precision_rows import FLOAT, MODELS, Row, Setup, Sizes, prepare, rows_of

FULL, QUICK = Sizes(50_000, 300, 2000, 200), Sizes(2_000, 100, 400, 20)
"""Sizes of the measurement, those of `--quick`; ResNet-20 has a tenth of the probe."""

BYTES = 1.1
"""Largest allowed ratio of the files' sizes."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table for each model, and return the exit code: 1 for figures out of reach under `--check`."""
    options = _parser().parse_args(arguments)
    names = (options.models or ("mnist_lenet-5" if options.quick else ",".join(MODELS))).split(",")
    found, missed = {}, []
    try:
        for name in names:
            if name not in MODELS:
                raise InputError(f"--models must be some of {', '.join(MODELS)}, got {name!r}")
            with tempfile.TemporaryDirectory() as folder:
                sizes = QUICK if options.quick else FULL
                setup = prepare(name, sizes._replace(probe=options.probe or sizes.probe), Path(folder))
                rows = rows_of(setup, not options.no_choices)
            print(table(setup, rows), flush=True)
            short = shortfalls(name, rows)
            print("\n".join(short) or f"{name}: every figure is reached by one row", flush=True)
            missed += short
            found[name] = {"rows": [row.as_dict() for row in rows], "shortfalls": short}
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        content = {"environment": environment({}), "models": found}
        options.json.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    return 1 if options.check and missed else 0


def table(setup: Setup, rows: list[Row]) -> str:
    """The rows of a model in Markdown."""
    head = (
        f"\n{setup.name}: {len(setup.bench.probe.images):,} probe images, {setup.counts}, "
        f"{len(setup.clean):,} clean test images; the original is right on {setup.accuracy:.2%}\n\n"
        "| file | bytes | ms | probe deviates | labels differ | held-out repaired: boundary | dflare | of the float "
        "output's: boundary | dflare | broken | fixed | accuracy |\n"
        "|" + " :-- |" + " --: |" * 11
    )
    return "\n".join([head, *(line(row) for row in rows)])


def line(row: Row) -> str:
    """One row in Markdown: rates in percent, with the probe's 95 % interval."""
    rate = row.step.deviation
    assert rate.value is not None
    assert rate.low is not None
    assert rate.high is not None
    repaired = " | ".join(percent(figure.value) for figure in row.repaired.values())
    probe = f"{rate.value:.3%} ({rate.low:.3%}–{rate.high:.3%}) | {percent(row.step.argmax.value, 3)}"
    clean = f"{row.broken:.2%} | {row.fixed:.2%} | {row.accuracy:.2%}"
    return f"| {row.name} | {row.step.bytes:,} | {row.latency_ms:.3f} | {probe} | {repaired} | {clean} |"


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent, or that there is none."""
    return "–" if value is None else f"{value:.{digits}%}"


def shortfalls(name: str, rows: list[Row]) -> list[str]:
    """What the best row misses of issue 5's last column, in words; the best is the one that misses least."""
    start = rows[0]
    floating = next(row for row in rows if row.name == FLOAT)
    judged = {row.name: missing(row, start, floating, name.startswith("mnist")) for row in rows[1:]}
    best = min(judged, key=lambda each: len(judged[each]))
    return [f"{name}, best row {best!r}: {words}" for words in judged[best]]


def missing(row: Row, start: Row, floating: Row, mnist: bool) -> list[str]:
    """Which figures of the issue a row does not reach."""
    short = []
    for found, figure in row.repaired.items():
        if figure.value is not None and figure.value < 0.92:
            short.append(f"generalization {figure.value:.1%} of triggers found by {found}, expected >= 92 %")
    for against, before in (("as handed in", start), ("with a float output", floating)):
        was, now = before.step.deviation.value or 0, row.step.deviation.value or 0
        if now > 0.2 * was:
            short.append(f"probe after / before {now / was if was else 0:.2f} ({against}), expected <= 0.2")
    labels, now = start.step.argmax.value or 0, row.step.argmax.value or 0
    if now > 0.2 * labels:  # an output on 256 levels "agrees" by ties, which are no repair
        short.append(f"differing labels after / before {now / labels if labels else 0:.2f}, expected <= 0.2")
    if mnist and row.broken > 0.001:
        short.append(f"drawdown {row.broken:.2%}, expected <= 0.1 %")
    if row.accuracy < start.accuracy:
        short.append(f"accuracy {row.accuracy:.2%}, expected not lower than {start.accuracy:.2%}")
    if row.step.bytes > BYTES * start.step.bytes:
        short.append(f"{row.step.bytes:,} bytes, expected at most {BYTES} times {start.step.bytes:,}")
    return short


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure int8 ONNX files with 16-bit activations.")
    parser.add_argument("--quick", action="store_true", help="LeNet-5 only, with fewer images")
    parser.add_argument("--check", action="store_true", help="exit 1 when a figure of issue 5 is not reached")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to a file")
    parser.add_argument("--probe", type=int, metavar="N", help="images of the probe in place of 50,000")
    parser.add_argument("--no-choices", action="store_true", help="leave out the choices of single tensors")
    parser.add_argument("--models", metavar="NAMES", help=f"some of {', '.join(MODELS)}, separated by commas")
    return parser


if __name__ == "__main__":
    sys.exit(main())
