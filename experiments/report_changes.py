"""What changed on the images that no search chose, and whether chance explains it, in words. Imports no model code."""

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.report_rows import dig
from repair.proof.intervals import CONFIDENCE
from repair.proof.verdict import percent


def change_words(outcome: Mapping[str, Any]) -> list[str]:
    """Sentences on clean and probe images of a Round or headline, each with McNemar's test.

    What is missing is left out. On the probe, with its many images of each seed, the test is that for clusters of them.
    """
    return [*_clean(outcome), *_probe(outcome), *_against_placebo(outcome)]


def _clean(outcome: Mapping[str, Any]) -> Iterator[str]:
    fixed, broken, p = (dig(outcome, "repair", key) for key in ("fixed", "drawdown", "mcnemar_p"))
    if p is None or _value(fixed) is None or _value(broken) is None:
        return
    shares = percent(fixed["value"]), percent(broken["value"])
    compared = _compared(fixed["value"] - broken["value"], "more fixed than broken", "more broken than fixed", p)
    yield f"Of {broken['n']:,} clean images the repair fixed {shares[0]} and broke {shares[1]}: {compared}"


def _probe(outcome: Mapping[str, Any]) -> Iterator[str]:
    before, after, p = (dig(outcome, "repair", key) for key in ("probe_before", "probe_after", "probe_mcnemar_p"))
    if p is None or _value(before) is None or _value(after) is None:
        return
    words = f"Of {after['n']:,} probe images {percent(before['value'])} deviated before and {percent(after['value'])} "
    yield f"{words}do now: {_compared(before['value'] - after['value'], 'fewer', 'more', p)}"


def _against_placebo(outcome: Mapping[str, Any]) -> Iterator[str]:
    ours, theirs = dig(outcome, "repair", "probe_after"), dig(outcome, "placebo", "repair", "probe_after")
    p = dig(outcome, "repair", "probe_placebo_mcnemar_p")
    if p is None or _value(ours) is None or _value(theirs) is None:
        return
    words = f"With the placebo {percent(theirs['value'])} of the same probe images deviate, with the repair "
    gain = theirs["value"] - ours["value"]
    yield f"{words}{percent(ours['value'])}: {_compared(gain, 'fewer', 'more', p)}"


def _compared(gain: float, better: str, worse: str, p: float) -> str:
    """Such as "fewer, which chance does not explain (McNemar's test, p = 0.01)."."""
    test = f"McNemar's test, p {f'= {p:.2g}' if p else '< 1e-300'}"  # floats end there
    if gain == 0:
        return f"no difference ({test})."
    chance = "which chance does not explain" if p <= 1 - CONFIDENCE else "but chance explains such a difference"
    return f"{better if gain > 0 else worse}, {chance} ({test})."


def _value(figure: Mapping[str, Any] | None) -> float | None:
    return None if figure is None else figure["value"]
