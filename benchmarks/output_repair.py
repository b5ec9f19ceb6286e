"""Output repairs: heads behind models that stay closed, each with its placebo, its bytes and its microseconds.

    python benchmarks/output_repair.py                   every head, three pairs
    python benchmarks/output_repair.py --quick           one pair, few images
    python benchmarks/output_repair.py --check           exit 1 where `output-shift` breaks more clean images than it
                                                         fixes, chance aside, or lets no fewer probe images deviate
    python benchmarks/output_repair.py --json rows.json  also write the rows; those that it holds are not measured again

DiffChaser's quantised `.tflite` LeNet-1 and LeNet-5, and a LeNet-5's distilled student taken as if it were closed; they
and MNIST are found under $DFLARE_BENCH (default: the folder `shared` beside the project). A placebo is the same head
learnt with the triggers' clean seeds in their place. What every row is held against, the model as handed in, agrees on
none of the triggers by construction, breaks nothing, and has the probe deviation rate before the arrow.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import kept_rows
from dflare.errors import InputError
from experiments.environment import environment
from output_rows import NAMES, QUICK, Scale, measure
from repair.outputs.recipes import OUTPUT_RECIPES
from repair.proof.metrics import plain

CHECKED = "output-shift"

HEADINGS = (
    "recipe",
    "efficacy",
    "generalization",
    "placebo",
    "other search's",
    "placebo",
    "broken",
    "fixed",
    "probe, before → after",
    "placebo",
    "bytes",
    ".onnx",
    "µs",
    "s",
)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table a pair, and return the exit code: 0, 1 for a repair that harms, 2 for bad input."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    try:
        stored = options.json is not None and options.json.exists()
        known = json.loads(options.json.read_text(encoding="utf-8"))["rows"] if stored else []
        for row in measured(options, known):
            rows.append(row)
            if options.json:
                content = {"environment": environment({}), "rows": [*rows, *kept_rows.others(known, rows)]}
                options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    bad = [row for row in rows if row["recipe"] == CHECKED and harms(row)]
    for row in bad:
        print(f"short: {CHECKED} does {row['pair']} more harm than good", file=sys.stderr)
    return 1 if options.check and bad else 0


def harms(row: dict[str, Any]) -> bool:
    """Whether a repair breaks more clean images than it fixes, chance aside, or lets no fewer probe images deviate."""
    return row["net"]["high"] < 0 or not row["probe_after"]["value"] < row["probe_before"]["value"]


def measured(options: argparse.Namespace, known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows asked for, printed as they come; those already known are taken over."""
    scale = QUICK if options.quick else Scale(seed=options.seed)
    pairs = options.pairs.split(",") if options.pairs else list(NAMES[:1] if options.quick else NAMES)
    recipes = options.recipes.split(",") if options.recipes else list(OUTPUT_RECIPES)
    for flag, asked, there in (("--pairs", pairs, NAMES), ("--recipes", recipes, OUTPUT_RECIPES)):
        if unknown := [name for name in asked if name not in there]:
            raise InputError(f"{flag} must be some of {', '.join(there)}, got {unknown[0]!r}")
    for pair in pairs:
        print(f"\n{pair}\n\n| {' | '.join(HEADINGS)} |\n| :-- |{' --: |' * (len(HEADINGS) - 1)}", flush=True)
        for name in recipes:
            recipe = OUTPUT_RECIPES[name]
            same = {"pair": pair, "recipe": name, "parts": recipe.parts(), "scale": asdict(scale)}
            row = kept_rows.find(known, same) or plain(asdict(measure(pair, name, recipe, scale)))
            print(line(row), flush=True)
            yield row


def line(row: dict[str, Any]) -> str:
    """A row of the table; shares in percent, bytes and microseconds of the head beside those of the model."""
    triggers = ("efficacy", "generalization", "placebo", "other", "other_placebo")
    cells = [
        f"`{row['recipe']}`",
        *(f"{100 * row[key]['value']:.1f}" for key in triggers),
        *(f"{100 * row[key]['value']:.2f}" for key in ("broken", "fixed")),
        f"{100 * row['probe_before']['value']:.2f} → {100 * row['probe_after']['value']:.2f}",
        f"{100 * row['probe_placebo']['value']:.2f}",
        f"{row['bytes_model']:,} + {row['bytes_head']:,}",
        f"{row['bytes_onnx']:,}",
        f"{row['microseconds_model']:.0f} + {row['microseconds'] - row['microseconds_model']:.0f}",
        f"{row['seconds']:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Put every kind of head behind three compressed models.")
    parser.add_argument("--quick", action="store_true", help="one pair, few images")
    parser.add_argument("--check", action="store_true", help=f"exit 1 where {CHECKED} does more harm than good")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows; those in it are not repeated")
    parser.add_argument("--pairs", metavar="A,B", help=f"some of {', '.join(NAMES)}")
    parser.add_argument("--recipes", metavar="A,B", help=f"some of {', '.join(OUTPUT_RECIPES)}")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of search and learning (default 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
