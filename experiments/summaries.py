"""What `dflare search` and `dflare repair` print when they are done."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dflare.shards import Endings, read_endings, read_shrunk, read_triggers
from dflare.triggers import Side
from experiments.repairing import read_training
from experiments.report_precision import precision_of, precision_words
from experiments.report_verification import verification_of, words
from experiments.run import Run
from repair.proof import evidence, metrics


def search_summary(run: Run) -> str:
    """What the search of the next round's model found, a line a side, and what the other strategy found in round 0."""
    number = run.standing().number
    folder = run.folder.round(number) / "triggers"
    endings, lines = read_endings(folder), [f"triggers: {folder}"]
    lines += [_found(run, side.name, endings.side(side)) for side in Side]
    if number == 0 and run.other is not None:
        lines += [f"{_found(run, 'judge', read_endings(run.other))}, by {run.settings.search.other_strategy}"]
    lines += _shrinking(folder)
    verification = verification_of(folder)
    return "\n".join([*lines, words(verification)] if verification is not None else lines)


def _found(run: Run, name: str, endings: Endings) -> str:
    figures = metrics.plain(evidence.search_figures(endings, run.settings.search.max_queries, run.settings.seed))
    mean = figures["queries_per_trigger"]["mean"]["value"] or 0.0
    return (
        f"{name + ':':10}{figures['found']} found of {figures['seeds']} seeds, "
        f"{figures['already']} deviated already, {figures['censored']} unfound, {mean:.1f} queries a seed"
    )


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
    training, widened = read_training(run.folder.round(number) / "model"), precision_of(run.folder.round(number))
    lines = [
        f"model: {run.model_file(number)}",
        f"{training.steps} steps on {training.triggers} triggers, {training.seconds:.0f} s",
    ]
    lines += [precision_words(widened)] if widened is not None else []
    return "\n".join([*lines, *_head_words(training.head)])


def _head_words(head: Mapping[str, Any]) -> list[str]:
    """What an output repair put behind the model and what that costs; nothing for other repairs."""
    return [f"head: {head['kind']}, {head['bytes']:,} bytes, {head['microseconds']:g} µs an image"] if head else []
