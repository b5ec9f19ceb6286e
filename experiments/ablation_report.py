"""The tables of an ablation: means with intervals, and every arm against the baseline."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.ablation_grid import Grid
from experiments.ablation_results import FOR, Measure, write_results
from experiments.boxplots import boxplot
from experiments.files import write_atomic
from repair.proof.comparisons import compare_all, least_p, mean_of_runs
from repair.proof.intervals import Figure

SCHEMA = 1
"""Version of `ablation.json`."""

Done = Mapping[str, Any]


def write_ablation(folder: Path, grid: Grid, done: Sequence[Done], verb: str) -> dict[str, Any]:
    """Write results, tables and plots of the runs that are done into the folder; what `ablation.json` holds."""
    write_results(folder, done)
    blocks = [_block(grid, [run for run in done if run["block"] == block], block, verb) for block in grid.blocks]
    found = {"schema_version": SCHEMA, "verb": verb, "baseline": grid.baseline, "runs": len(done), "blocks": blocks}
    write_atomic(folder / "ablation.json", json.dumps(found, indent=1) + "\n")
    plots = _plots(folder, grid, done, verb)
    write_atomic(folder / "ablation.md", page(found, grid, verb, plots))
    return found


def _block(grid: Grid, done: Sequence[Done], block: str, verb: str) -> dict[str, Any]:
    others = [arm for arm in grid.arms if arm != grid.baseline]
    figures: dict[str, Any] = {}
    for name in FOR[verb]:
        runs = {arm: _values(done, arm, name) for arm in grid.arms}
        compared = compare_all([(runs[arm], runs[grid.baseline]) for arm in others])
        figures[name] = {
            "means": {arm: mean_of_runs(values).as_dict() for arm, values in runs.items()},
            "against_baseline": {
                arm: None if each is None else {**asdict(each), "effect": each.words}
                for arm, each in zip(others, compared, strict=True)
            },
        }
    return {"block": block, "figures": figures}


def _values(done: Sequence[Done], arm: str, name: str) -> list[float]:
    return [float(run[name]) for run in done if run["arm"] == arm and run.get(name) is not None]


def page(found: Mapping[str, Any], grid: Grid, verb: str, plots: Sequence[Path] = ()) -> str:
    """`ablation.md`."""
    seeds = max(1, len(grid.cells) // (len(grid.arms) * len(grid.blocks)))
    lines = [
        "# Ablation",
        "",
        f"{found['runs']} of {len(grid.cells)} runs: {len(grid.arms)} arms, {seeds} seeds"
        + (f", {len(grid.blocks)} blocks" if len(grid.blocks) > 1 else "")
        + f". Means with Student's t intervals (95 %) over the seeds; A12 and p against *{_cell(grid.baseline)}*: "
        "A12 is the chance that a run of the arm has the greater number, p the Mann-Whitney U test's, corrected "
        f"after Holm over the arms of a table. {seeds} runs against {seeds} cannot reach a p below "
        f"{least_p(seeds, seeds):.2g}.",
    ]
    for block in found["blocks"]:
        lines += ["", f"## {_cell(block['block'])}"] if block["block"] else []
        for name, measure in FOR[verb].items():
            lines += ["", *_table(measure, block["figures"][name], grid)]
    lines += ["", "## Plots", "", *(f"![{plot.stem}](plots/{plot.name})" for plot in plots)] if plots else []
    return "\n".join([*lines, ""])


def _table(measure: Measure, figures: Mapping[str, Any], grid: Grid) -> list[str]:
    better = {1: ", more is better", -1: ", less is better"}.get(measure.better, "")
    lines = [
        f"### {measure.words}{better}",
        "",
        "| arm | mean | A12 | effect | p | p (Holm) |",
        "| :-- | --: | --: | :-- | --: | --: |",
    ]
    for arm in grid.arms:
        mean = _said(Figure.of(figures["means"][arm]), measure.percent)
        other = figures["against_baseline"].get(arm)
        cells = ["", "baseline", "", ""] if arm == grid.baseline else ["–"] * 4
        if other is not None:
            cells = [f"{other['a12']:.2f}", other["effect"], f"{other['p']:.3g}", f"{other['adjusted']:.3g}"]
        lines.append(f"| {_cell(arm)} | {mean} | {' | '.join(cells)} |")
    return lines


def _said(figure: Figure, percent: bool) -> str:
    def one(value: float) -> str:
        return f"{100 * value:.1f} %" if percent else f"{value:.3g}"

    if figure.value is None:
        return "–"
    if figure.low is None or figure.high is None:
        return f"{one(figure.value)} (1 run)"
    return f"{one(figure.value)} [{one(figure.low)}, {one(figure.high)}]"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _plots(folder: Path, grid: Grid, done: Sequence[Done], verb: str) -> list[Path]:
    found = []
    for number, block in enumerate(grid.blocks):
        here = [run for run in done if run["block"] == block]
        for name, measure in FOR[verb].items():
            title = f"{measure.words}: {block}" if block else measure.words
            path = folder / "plots" / (f"{name}-{number}.svg" if len(grid.blocks) > 1 else f"{name}.svg")
            write_atomic(path, boxplot(title, {arm: _values(here, arm, name) for arm in grid.arms}, measure.percent))
            found.append(path)
    return found
