"""A round, or the whole run, as one record of figures: a line of rounds.jsonl, or headline.json."""

from typing import Any

from dflare.shards import read_endings
from dflare.triggers import Side
from experiments.run import Run
from experiments.trial import Model
from repair.proof import evidence

NOTHING_KEPT = "No repair was kept, so there is none to hold against a placebo."


def record(
    run: Run, start: Model, end: Model, controls: dict[str, Model | None], number: int, seconds: float
) -> dict[str, Any]:
    """The figures of going from `start` to `end`, with the controls `placebo` and `noop` beside.

    `number` is the round up to which triggers are counted, `seconds` what the repair took.
    """
    first, new = run.triggers(range(1), Side.judge), run.triggers(range(number, number + 1), Side.judge)
    earlier = run.triggers(range(number), Side.judge)
    held_out = {"generalization": first, "generalization_new": new, "earlier": earlier}
    trained = run.triggers(range(number + 1), Side.train)
    figures = run.bench.figures(start, end, held_out, trained)
    beside = {
        name: run.bench.figures(start, model, held_out, trained) if model is not None else None
        for name, model in controls.items()
    }
    beats, words = None, NOTHING_KEPT
    if (placebo := controls["placebo"]) is not None:
        beats, words = run.bench.verdict(start, end, placebo, first, (figures, beside["placebo"]))
    figures["search"] |= _searches(run, start)
    cost = run.bench.cost(start, end, seconds)
    return {**figures, "cost": cost, **beside, "beats_placebo": beats, "beats_placebo_words": words}


def _searches(run: Run, start: Model) -> dict[str, Any]:
    """The searches against the model at the start, a side each."""
    budget, seed, endings = run.settings.search.max_queries, run.settings.seed, read_endings(start.search)
    sides = {"before": Side.judge, "train": Side.train, "validate": Side.validate}
    return {name: evidence.search_figures(endings.side(side), budget, seed) for name, side in sides.items()}
