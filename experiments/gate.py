"""The release gate: limits on the headline's figures, and a sentence with numbers for each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dflare.errors import InputError
from repair.proof.intervals import Figure
from repair.proof.verdict import percent

DEFAULT_MAX_DRAWDOWN = 0.01
"""Share of clean images a repair may break unless the configuration says otherwise (DESIGN, section 7)."""

NOTHING_REPAIRED = "Nothing was repaired: every round was rolled back, so the model is the one that was handed in"

Check = tuple[bool, str]


@dataclass(frozen=True)
class GateResult:
    """Whether every limit holds; `reasons` are the sentences of those that do not, `met` of those that do."""

    passed: bool
    reasons: list[str]
    met: list[str] = field(default_factory=list)


def judge_gate(gate: Mapping[str, Any], headline: Mapping[str, Any] | None) -> GateResult:
    """Hold the headline of a run against the limits of its gate.

    Keys: `max_probe_rate` (the upper end of the probe's interval must not exceed it), `min_queries_ratio`,
    `max_drawdown` (default 0.01; broken must also be no more than fixed), `max_accuracy_drop` (before - after, shares),
    `max_bytes`, `max_latency_ms`, `beat_placebo`. None (and false) is not checked; a limit whose figure is missing
    fails. Without a headline (a run that has not ended) the gate fails. An unknown key raises `InputError`.

    A release gate is about the model that comes out. Where every round was rolled back that is the one handed in, of
    which limits on changes say nothing: it passes only under a limit on its own deviations, `max_probe_rate`.
    """
    gate = {"max_drawdown": DEFAULT_MAX_DRAWDOWN, **gate}
    if unknown := sorted(set(gate) - set(_CHECKS)):
        raise InputError(f"gate knows the keys {', '.join(_CHECKS)}, got gate.{unknown[0]}; remove or rename it")
    if headline is None:
        return GateResult(
            False, ["The run has no headline yet, so no limit can be checked: continue it to its final re-test."]
        )
    asked = {key: limit for key, limit in gate.items() if limit is not None and limit is not False}
    checks = [check(asked[key], headline) for key, check in _CHECKS.items() if key in asked]
    reasons = [words for passed, words in checks if not passed]
    met = [words for passed, words in checks if passed]
    if headline.get("rolled_back") is not True:
        return GateResult(not reasons, reasons, met)
    if reasons or "max_probe_rate" not in asked:
        return GateResult(False, [_nothing_repaired(asked), *reasons], met)
    return GateResult(True, [], [f"{NOTHING_REPAIRED}, and it meets the gate as it is.", *met])


def _nothing_repaired(asked: Mapping[str, Any]) -> str:
    if "max_probe_rate" in asked:
        return f"{NOTHING_REPAIRED}, and it does not meet the gate."
    return (
        f"{NOTHING_REPAIRED}, and no limit says how often that one may deviate; set gate.max_probe_rate to release it."
    )


def _probe(limit: float, headline: Mapping[str, Any]) -> Check:
    figure = _figure(headline, "repair", "probe_after")
    if figure.value is None or figure.high is None:
        return _missing("max_probe_rate", percent(limit), "the probe was not asked")
    words = f"{percent(figure.value)} of {figure.n:,} probe images deviate, with 95 % confidence at most "
    return _verdict(figure.high <= limit, f"{words}{percent(figure.high)}", "max_probe_rate", percent(limit))


def _queries(limit: float, headline: Mapping[str, Any]) -> Check:
    figure = _figure(headline, "search", "queries_ratio")
    if figure.value is None:
        return _missing("min_queries_ratio", f"{limit:g}", "no judge seed could be searched before and after")
    interval = "" if figure.low is None or figure.high is None else f" [{figure.low:.2f}, {figure.high:.2f}]"
    words = f"A fresh search needs {figure.value:.2f}{interval} times the queries of the search before"
    return _verdict(figure.value >= limit, words, "min_queries_ratio", f"{limit:g}")


def _drawdown(limit: float, headline: Mapping[str, Any]) -> Check:
    broken, fixed = _figure(headline, "repair", "drawdown"), _figure(headline, "repair", "fixed")
    if broken.value is None or fixed.value is None:
        return _missing("max_drawdown", percent(limit), "no clean judge image was asked before and after")
    words = f"The repair breaks {percent(broken.value)} of {broken.n:,} clean images and fixes {percent(fixed.value)}"
    if broken.value <= limit and broken.value > fixed.value:
        return False, f"{words}; it must not break more than it fixes (gate.max_drawdown)."
    return _verdict(broken.value <= limit, words, "max_drawdown", percent(limit))


def _accuracy(limit: float, headline: Mapping[str, Any]) -> Check:
    before, after = _figure(headline, "accuracy", "before"), _figure(headline, "accuracy", "after")
    if before.value is None or after.value is None:
        return _missing("max_accuracy_drop", percent(limit), "the judge images have no labels")
    words = f"Accuracy goes from {percent(before.value)} to {percent(after.value)} on {after.n:,} images"
    # 1e-12: 0.91 - 0.90 is a hair more than 0.01 in binary
    return _verdict(before.value - after.value <= limit + 1e-12, words, "max_accuracy_drop", percent(limit))


def _bytes(limit: float, headline: Mapping[str, Any]) -> Check:
    size = (headline.get("cost") or {}).get("bytes_after")
    if size is None:
        return _missing("max_bytes", f"{limit:,}", "the repaired model was not written")
    return _verdict(size <= limit, f"The repaired model takes {size:,} bytes", "max_bytes", f"{limit:,}")


def _latency(limit: float, headline: Mapping[str, Any]) -> Check:
    figure = _figure(headline, "cost", "latency_after")
    if figure.value is None:
        return _missing("max_latency_ms", f"{limit:g}", "the latency was not measured")
    words = f"The repaired model answers in {figure.value:.3g} ms"
    return _verdict(figure.value <= limit, words, "max_latency_ms", f"{limit:g}")


def _placebo(_: bool, headline: Mapping[str, Any]) -> Check:
    words = str(headline.get("beats_placebo_words") or "Whether the repair beats its placebo is not known.")
    passed = headline.get("beats_placebo") is True
    return passed, words if passed else f"{words.rstrip('.')} (gate.beat_placebo)."


_CHECKS: dict[str, Callable[[Any, Mapping[str, Any]], Check]] = {
    "max_probe_rate": _probe,
    "min_queries_ratio": _queries,
    "max_drawdown": _drawdown,
    "max_accuracy_drop": _accuracy,
    "max_bytes": _bytes,
    "max_latency_ms": _latency,
    "beat_placebo": _placebo,
}


def _figure(headline: Mapping[str, Any], block: str, key: str) -> Figure:
    return Figure.of((headline.get(block) or {}).get(key))


def _verdict(passed: bool, words: str, key: str, limit: str) -> Check:
    return passed, f"{words}; gate.{key} = {limit} {'is met' if passed else 'is not met'}."


def _missing(key: str, limit: str, why: str) -> Check:
    return False, f"gate.{key} = {limit} cannot be checked, because {why}."
