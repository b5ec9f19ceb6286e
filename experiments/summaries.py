"""What `dflare search` and `dflare repair` print when they are done."""

from pathlib import Path

import torch

from dflare.shards import read_endings, read_shrunk, read_triggers
from dflare.triggers import Side
from experiments.repairing import read_training
from experiments.report_verification import verification_of, words
from experiments.run import Run
from repair.proof import evidence, metrics


def search_summary(run: Run) -> str:
    """What the search of the next round's model found, a line a side."""
    folder, budget = run.folder.round(run.standing().number) / "triggers", run.settings.search.max_queries
    endings, lines = read_endings(folder), [f"triggers: {folder}"]
    for side in Side:
        figures = metrics.plain(evidence.search_figures(endings.side(side), budget, run.settings.seed))
        mean = figures["queries_per_trigger"]["mean"]["value"] or 0.0
        lines.append(
            f"{side.name + ':':10}{figures['found']} found of {figures['seeds']} seeds, "
            f"{figures['already']} deviated already, {figures['censored']} unfound, {mean:.1f} queries a seed"
        )
    lines += _shrinking(folder)
    verification = verification_of(folder)
    return "\n".join([*lines, words(verification)] if verification is not None else lines)


def _shrinking(folder: Path) -> list[str]:
    """How far triggers are from their seeds, as found and shrunk, and what shrinking cost."""
    nearer, found = read_shrunk(folder), read_triggers(folder, shrunk=False)
    if nearer is None or found is None:
        return []
    same = set(nearer.identities())
    found = found.take(torch.tensor([one in same for one in found.identities()], dtype=torch.bool))
    before, after = (float(some.distances["l_2"].median()) for some in (found, nearer))
    asked = float(nearer.shrink_queries.double().mean())
    return [f"shrunk from a median L2 of {before:.3g} to {after:.3g}, {asked:.0f} further queries a trigger"]


def repair_summary(run: Run) -> str:
    """Where the repaired model of the next round lies and what it took."""
    number = run.standing().number
    training = read_training(run.folder.round(number) / "model")
    return (
        f"model: {run.model_file(number)}\n"
        f"{training.steps} steps on {training.triggers} triggers, {training.seconds:.0f} s"
    )
