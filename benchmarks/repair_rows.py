"""The rows of the repair benchmark: one `dflare loop` each, and what its report says of it."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dflare.errors import InputError
from pairs import bench_folder

ROOT = Path(__file__).parent.parent

MODELS = {"mnist_lenet-5": "mnist", "mnist_simplecnn": "mnist", "cifar-10_resnet20": "cifar10"}
"""Folder below $DFLARE_BENCH/models -> its images."""

DISTILLED, PRUNED, INT8, BITS = "distilled", "pruned", "int8", "int8, more bits"

KINDS = {"distilled.pt2": DISTILLED, "pruned.pt2": PRUNED, "int8.pt2": INT8, "int8.onnx": INT8}
"""File of a pair -> the column of issue 5, point 8, that it belongs to; int8 ones are also repaired with more bits."""

KEPT = (
    "efficacy",
    "generalization",
    "generalization_other",
    "other_strategy",
    "drawdown",
    "fixed",
    "mcnemar_p",
    "probe_before",
    "probe_after",
    "probe_labels_before",
    "probe_labels_after",
    "probe_mcnemar_p",
    "steps",
    "training_triggers",
)
"""Of what a report says of a repair."""


@dataclass(frozen=True)
class Row:
    """A pair, the column it stands for, and the seed of its whole run."""

    model: str  # of `MODELS`
    file: str  # of `KINDS`
    kind: str
    seed: int
    settings: Mapping[str, str] = field(default_factory=dict)  # of `dflare loop`, apart from the pair and the seed

    @property
    def pair(self) -> str:
        """Its name in tables and of its run folder."""
        bits = "-bits" if self.kind == BITS else ""
        return f"{self.model}-{self.file.replace('.', '-')}{bits}"

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two rows the same measurement."""
        return {"pair": self.pair, "kind": self.kind, "seed": self.seed, "settings": dict(self.settings)}

    def arguments(self, folder: Path) -> list[str]:
        """Of the command line; the run goes to its folder below `folder`."""
        models = bench_folder() / "models" / self.model
        pairs = {
            "pair.original": models / "original.onnx",
            "pair.compressed": models / self.file,
            "data.name": MODELS[self.model],
            "data.root": bench_folder() / "data",
            "seed": self.seed,
            "threads": 1,
            "run_dir": folder / f"{self.pair}-{self.seed}",
        }
        return [f"{key}={value}" for key, value in {**pairs, **self.settings}.items()]


def rows(settings_of: Callable[[str, str], Mapping[str, str]], seeds: Mapping[str, int]) -> list[Row]:
    """Every row: `settings_of` says those of a model and a column, `seeds` how many by data set."""
    found = []
    for model, data in MODELS.items():
        for file, kind in [*KINDS.items(), *((file, BITS) for file, kind in KINDS.items() if kind == INT8)]:
            found += [Row(model, file, kind, seed, settings_of(model, kind)) for seed in range(seeds[data])]
    return sorted(found, key=lambda row: (row.seed, list(MODELS).index(row.model)))


def measure(row: Row, folder: Path) -> dict[str, Any]:
    """Run the loop of a row, or what is missing of it, and return its figures as plain values.

    Raises `InputError` where the loop ends with another exit code than those of a gate.
    """
    command = [sys.executable, "-m", "experiments.main", "loop", *row.arguments(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise InputError(f"the loop of {row.pair}, seed {row.seed}, ended with {done.returncode}: {done.stderr[-500:]}")
    report = json.loads((folder / f"{row.pair}-{row.seed}" / "report.json").read_text(encoding="utf-8"))
    return {**row.identity, **figures(report["headline"])}


def figures(headline: Mapping[str, Any]) -> dict[str, Any]:
    """What the table needs of a report's headline: of the repair, and of each control that was run."""
    controls = {name: headline.get(name) for name in ("placebo", "eight_bit", "bits")}
    return {
        "repair": _trial(headline),
        **{name: _trial(trial) if trial else None for name, trial in controls.items()},
        "cost": headline["cost"],
        "rolled_back": headline["rolled_back"],
        "beats_placebo": headline["beats_placebo"],
        "words": headline["beats_placebo_words"],
    }


def _trial(trial: Mapping[str, Any]) -> dict[str, Any]:
    """Shares and ratios of one trial, as {value, low, high, n} where they are figures."""
    repair = trial["repair"]
    found = {name: repair.get(name) for name in KEPT}
    found["queries_ratio"] = trial["search"]["queries_ratio"]
    found["accuracy_before"], found["accuracy_after"] = (trial["accuracy"][side] for side in ("before", "after"))
    return found
