"""A round, or the whole run, as one record of figures: a line of rounds.jsonl, or headline.json."""

from typing import Any

from dflare.shards import read_endings
from dflare.triggers import Side
from experiments.bit_controls import gains
from experiments.run import Run
from experiments.trial import Model
from repair.proof import evidence, metrics

NOTHING_KEPT = "No repair was kept, so there is none to hold against a placebo."


def record(
    run: Run, start: Model, end: Model, controls: dict[str, Model | None], number: int, seconds: float
) -> dict[str, Any]:
    """The figures of going from `start` to `end`, with the controls `placebo` and `noop` beside.

    `number` is the round up to which triggers are counted, `seconds` what the repair took.
    """
    first, new = run.triggers(range(1), Side.judge), run.triggers(range(number, number + 1), Side.judge)
    earlier = run.triggers(range(number), Side.judge)
    headline = {"generalization": first, "generalization_other": run.other_triggers()}
    held_out = {**headline, "generalization_new": new, "earlier": earlier}
    trained = run.triggers(range(number + 1), Side.train)
    figures = run.bench.figures(start, end, held_out, trained)
    beside = {
        name: run.bench.figures(start, model, held_out, trained) if model is not None else None
        for name, model in controls.items()
    }
    beats, words = None, NOTHING_KEPT
    if (placebo := controls["placebo"]) is not None:
        paired = run.bench.paired(start, end, placebo, headline)
        beats, words = metrics.beats_placebo(figures, beside["placebo"], paired)
        figures["repair"]["probe_placebo_mcnemar_p"] = paired["probe_mcnemar_p"]
    gained = gains(run.bench, start, end, controls, headline, (figures, beside.get("eight_bit") or {}))
    words += f" {gained['words']}" if gained is not None else ""
    for block in (figures, *beside.values()):
        if block is not None and run.other is not None:
            block["repair"]["other_strategy"] = run.settings.search.other_strategy
    figures["search"] |= _searches(run, start)
    cost = run.bench.cost(start, end, seconds)
    verdict = {"gains": gained, "beats_placebo": beats, "beats_placebo_words": words}
    return {**figures, "cost": cost, **beside, **verdict}


def _searches(run: Run, start: Model) -> dict[str, Any]:
    """The searches against the model at the start, a side each; `other` is that of round 0 by another strategy."""
    budget, seed, endings = run.settings.search.max_queries, run.settings.seed, read_endings(start.search)
    sides = {"before": Side.judge, "train": Side.train, "validate": Side.validate}
    found = {name: evidence.search_figures(endings.side(side), budget, seed) for name, side in sides.items()}
    other = evidence.search_figures(read_endings(run.other), budget, seed) if run.other is not None else None
    return {**found, "other": other}
