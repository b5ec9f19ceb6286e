"""Robustness repair of MNIST networks: L-inf balls around misbehaving images as domains (BIRDNN's second benchmark).

    python benchmarks/robustness.py                       four networks, two radii, the default method
    python benchmarks/robustness.py --quick               one small network, few balls (under a minute)
    python benchmarks/robustness.py --methods hinge,plain some methods; `all` for all of them
    python benchmarks/robustness.py --models simplecnn-int8 --radii 0.05
    python benchmarks/robustness.py --check               exit 1 when the default method misses a figure
    python benchmarks/robustness.py --json rows.json      also write the rows; those in it are not measured again

Third-party networks are found under $DFLARE_BENCH/models (default: the folder `shared` beside the project), images
in its data/MNIST; fully connected ones are trained on first use and kept in the folder for temporary files. Around an
image a model is to answer the label, a compressed model what its original says at the centre. An image misbehaves
where the centre or an attack violates that; balls around training images are repaired, those around test images
judge. Judged is the written file, by ONNX Runtime; attacks take gradients from it as it is opened again for repair.

The figures of --check are ours, no published ones: every centre right, a pooled bound of 0.001 (no violation among
6,905 fresh draws), and at most 0.5 points of accuracy (of agreement, for a compressed model) lost, in every row.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import kept_rows
from dflare.errors import InputError
from experiments.environment import environment
from robustness_cases import MODELS, Sizes
from robustness_methods import METHODS, applies
from robustness_rows import EPSILON, measure

HEADINGS = (
    *("model", "radius", "method", "balls", "centres right %", "attacked %", "unseen attacked %", "calm attacked %"),
    *("pooled bound", "worst ball's bound", "accuracy %", "broken %", "repair cpu s"),
)

DEFAULT, USUAL, RADII = (
    "hinge",
    ("dense-50x2-relu", "dense-50x2-tanh", "lenet-5-original", "lenet-5-int8"),
    (0.02, 0.05),
)

QUICK = Sizes(balls=15, candidates=300, clean=500, steps=100)

IDENTITY = ("model", "radius", "method", "balls", "candidates", "clean", "steps", "seed")
"""Keys in which two rows are the same measurement."""

LOST = 0.005
"""Accuracy that a repair may cost."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, and return the exit code: 0, 1 for a figure missed under --check, 2 for bad input."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    try:
        known = json.loads(options.json.read_text("utf-8"))["rows"] if options.json and options.json.exists() else []
        asked = questions(options)
        print(f"| {' | '.join(HEADINGS)} |\n| :-- | --: | :-- |{' --: |' * (len(HEADINGS) - 3)}", flush=True)
        for row in measured(asked, known):
            rows.append(row)
            print(line(row), flush=True)
            if options.json:
                content = {"environment": environment({}), "rows": [*rows, *kept_rows.others(known, rows, IDENTITY)]}
                options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    missed = [short for row in rows if row["method"] == DEFAULT for short in misses(row)]
    print("\n".join(f"short: {short}" for short in missed), file=sys.stderr)
    return 1 if options.check and missed else 0


def questions(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What identifies each row that is asked for; raises `InputError` for unknown names and radii."""
    methods = list(METHODS) if options.methods == "all" else options.methods.split(",")
    models = options.models.split(",") if options.models else USUAL[:1] if options.quick else USUAL
    for what, names, there in (("--methods", methods, METHODS), ("--models", models, MODELS)):
        if unknown := [name for name in names if name not in there]:
            raise InputError(f"{what} must be some of {', '.join(there)}, got {unknown[0]!r}")
    sizes = QUICK if options.quick else Sizes()
    balls = options.balls or sizes.balls
    if balls < 1:
        raise InputError(f"--balls must be at least 1, got {balls}")
    shared = {"balls": balls, "candidates": sizes.candidates, "clean": sizes.clean, "steps": sizes.steps}
    return [
        {"model": model, "radius": radius, "method": method, **shared, "seed": options.seed}
        for model in models
        for radius in _radii(options.radii, options.quick)
        for method in methods
        if applies(method, model)
    ]


def measured(asked: Sequence[dict[str, Any]], known: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows asked for; those already known are taken over."""
    for one in asked:
        sizes = Sizes(**{name: one[name] for name in ("balls", "candidates", "clean", "steps")})
        yield kept_rows.find(known, one) or measure(one["model"], one["radius"], one["method"], sizes, one["seed"])


def line(row: Mapping[str, Any]) -> str:
    """A row of the table; figures before -> after."""
    before, after = row["before"], row["after"]

    def percent(key: str, digits: int = 1) -> str:
        return f"{100 * before[key]:.{digits}f} → {100 * after[key]:.{digits}f}"

    cells = [
        row["model"], f"{row['radius']:g}", f"`{row['method']}`", f"{row['bad']}, {row['unseen']}, {row['calm']}",
        *(percent(key) for key in ("centres", "attacked", "unseen", "calm")),
        *(f"{before[key]['bound']:.2g} → {after[key]['bound']:.2g}" for key in ("pooled", "worst")),
        percent("accuracy", 2), f"{100 * row['broken']:.2f}", f"{row['cpu_seconds']:.1f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def misses(row: Mapping[str, Any]) -> list[str]:
    """The figures that a row does not reach, in words."""
    before, after, name = row["before"], row["after"], f"{row['model']} at {row['radius']:g}"
    lost = before["accuracy"] - after["accuracy"]
    found = []
    if after["centres"] < 1:
        found.append(f"{name}: every centre right wanted, measured {100 * after['centres']:.1f} %")
    if after["pooled"]["bound"] > EPSILON:
        found.append(f"{name}: pooled bound <= {EPSILON:g} wanted, measured {after['pooled']['bound']:.3g}")
    if lost > LOST:
        found.append(f"{name}: at most {100 * LOST:g} points of accuracy lost wanted, measured {100 * lost:.2f}")
    return found


def _radii(text: str | None, quick: bool) -> list[float]:
    if text is None:
        return list(RADII[:1] if quick else RADII)
    try:
        radii = [float(part) for part in text.split(",")]
    except ValueError:
        radii = []
    if not radii or not all(0 < radius <= 1 for radius in radii):
        raise InputError(f"--radii must be numbers in (0, 1] with commas between them, got {text!r}")
    return radii


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Repair MNIST networks on balls around misbehaving images.")
    parser.add_argument("--quick", action="store_true", help="one network, one radius, few balls")
    parser.add_argument("--check", action="store_true", help="exit 1 when the default method misses a figure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows; those in it are not repeated")
    parser.add_argument("--methods", default=DEFAULT, metavar="A,B", help=f"all, or some of {', '.join(METHODS)}")
    parser.add_argument("--models", metavar="A,B", help=f"some of {', '.join(MODELS)} (default {', '.join(USUAL)})")
    parser.add_argument("--radii", metavar="R,R", help="in (0, 1] (default 0.02,0.05)")
    parser.add_argument("--balls", type=int, metavar="N", help=f"to repair at most (default {Sizes().balls})")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of images and repair (default 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
