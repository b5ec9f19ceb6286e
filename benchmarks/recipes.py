"""The ablation of repair recipes: each row of `repair.recipes` and its placebo, on third-party LeNet-5 pairs.

    python benchmarks/recipes.py                   every recipe, two pairs, two seeds (a quarter of an hour)
    python benchmarks/recipes.py --quick           one pair, one seed, 100 steps (two minutes)
    python benchmarks/recipes.py --check           exit 1 when the default recipe does not beat its placebo on the
                                                   distilled student
    python benchmarks/recipes.py --json rows.json  also write the rows; those that it holds are not measured again

Models and MNIST are found under $DFLARE_BENCH (default: the folder `shared` beside the project). For every seed a
search finds triggers from training images to learn and from test images to judge. A repair takes a fixed number of
steps, without a look at anything held out; its placebo is the same recipe, steps, seed, free weights and order of
images, each trigger replaced by its clean seed. Judged are the written files, opened again, every trigger asked alone.
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
from recipe_rows import DISTILLED, PAIRS, QUICK, Scale, measure
from repair.proof.metrics import plain
from repair.recipes import RECIPES, find_recipe

DEFAULT = "imitation"

HEADINGS = ("recipe", "efficacy", "generalization", "placebo", "gain", "clean agreement", "placebo's", "broken", "s")


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table a pair, and return the exit code: 0, 1 for a default without effect, 2 for bad input."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    try:
        known = (
            json.loads(options.json.read_text(encoding="utf-8"))["rows"]
            if options.json and options.json.exists()
            else []
        )
        for row in measured(options, known):
            rows.append(row)
            if options.json:
                content = {"environment": environment({}), "rows": [*rows, *kept_rows.others(known, rows)]}
                options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    bad = [row for row in rows if (row["pair"], row["recipe"]) == (DISTILLED, DEFAULT) and not row["gain"]["low"] > 0]
    for row in bad:
        print(f"short: {row['recipe']} does not beat its placebo on {row['pair']}", file=sys.stderr)
    return 1 if options.check and bad else 0


def measured(options: argparse.Namespace, known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows asked for, printed as they come; those already known are taken over."""
    scale = QUICK if options.quick else Scale(seeds=options.seeds, steps=options.steps)
    pairs = options.pairs.split(",") if options.pairs else [DISTILLED] if options.quick else list(PAIRS)
    recipes = {name: find_recipe(name) for name in (options.recipes.split(",") if options.recipes else RECIPES)}
    if unknown := [name for name in pairs if name not in PAIRS]:
        raise InputError(f"--pairs must be some of {', '.join(PAIRS)}, got {unknown[0]!r}")
    for pair in pairs:
        print(f"\n{pair}\n\n| {' | '.join(HEADINGS)} |\n| :-- |{' --: |' * (len(HEADINGS) - 1)}", flush=True)
        for name, recipe in recipes.items():
            same = {"pair": pair, "recipe": name, "parts": recipe.parts(), "scale": asdict(scale)}
            row = kept_rows.find(known, same) or plain(asdict(measure(pair, name, recipe, scale)))
            print(line(row), flush=True)
            yield row


def line(row: dict[str, Any]) -> str:
    """A row of the table, in percent and percentage points."""
    gain = row["gain"]
    cells = [
        f"`{row['recipe']}`",
        *(_percent(row[key]["value"]) for key in ("efficacy", "generalization", "placebo")),
        f"{100 * gain['value']:+.1f} ({100 * gain['low']:+.1f} … {100 * gain['high']:+.1f})",
        f"{100 * row['clean_before']:.2f} → {100 * row['clean_after']:.2f}",
        f"{100 * row['clean_placebo']:.2f}",
        f"{100 * row['broken']:.2f}",
        f"{row['seconds']:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Repair two LeNet-5 pairs with every recipe and with its placebo.")
    parser.add_argument("--quick", action="store_true", help="one pair, one seed, 100 steps")
    parser.add_argument("--check", action="store_true", help="exit 1 when the default does not beat its placebo")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows; those in it are not repeated")
    parser.add_argument("--pairs", metavar="A,B", help=f"some of {', '.join(PAIRS)}")
    parser.add_argument("--recipes", metavar="A,B", help="some recipes by name, or .yaml files")
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="of search and training (default 2)")
    parser.add_argument("--steps", type=int, default=300, metavar="N", help="of the optimiser (default 300)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
