"""What `dflare search` and `dflare repair` print when they are done."""

from dflare.shards import read_endings
from dflare.triggers import Side
from experiments.repairing import read_training
from experiments.report_verification import verification_of, words
from experiments.run import Run
from repair import evidence, metrics


def search_summary(run: Run) -> str:
    """What the search of the next round's model found, a line a side."""
    folder, budget = run.folder.round(run.standing().number) / "triggers", run.settings.search.max_queries
    endings, lines = read_endings(folder), [f"triggers: {folder}"]
    for side in Side:
        figures = metrics.plain(evidence.search_figures(endings.side(side), budget, run.settings.seed))
        mean = figures["queries_per_trigger"]["mean"]["value"] or 0.0
        lines.append(
            f"{side.name + ':':10}{figures['found']} found of {figures['seeds']} seeds, "
            f"{figures['already']} deviated already, {figures['censored']} unfound, {mean:.1f} queries a trigger"
        )
    verification = verification_of(folder)
    return "\n".join([*lines, words(verification)] if verification is not None else lines)


def repair_summary(run: Run) -> str:
    """Where the repaired model of the next round lies and what it took."""
    number = run.standing().number
    training = read_training(run.folder.round(number) / "model")
    return (
        f"model: {run.model_file(number)}\n"
        f"{training.steps} steps on {training.triggers} triggers, {training.seconds:.0f} s"
    )
