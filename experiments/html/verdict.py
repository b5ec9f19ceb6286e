"""The top of the page: may this model be released, why, and the figures that decide it."""

from collections.abc import Mapping
from typing import Any

from experiments.html.markup import Safe, tag
from experiments.html.tiles import tiles_of
from experiments.report_markdown import ALL_ROLLED_BACK
from experiments.report_verification import doubts

STATES = {
    "passed": ("✓", "The release gate passed"),
    "failed": ("✗", "The release gate failed"),
    "open": ("…", "The run has not ended"),
}
"""Sign and heading of each verdict."""

UNKNOWN = "Whether the repair beats its placebo is not known."


def state_of(report: Mapping[str, Any]) -> str:
    """A key of `STATES`: a run without a headline is neither passed nor failed."""
    if report["headline"] is None:
        return "open"
    return "passed" if report["gate"]["passed"] else "failed"


def outcome_of(report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The headline, or the latest round of a run that has not ended; None before the first."""
    last: Mapping[str, Any] | None = report["rounds"][-1] if report["rounds"] else None
    headline: Mapping[str, Any] | None = report["headline"]
    return last if headline is None else headline


def verdict_section(report: Mapping[str, Any]) -> Safe:
    """The verdict, a line for each limit, the placebo in words, and the deciding figures."""
    state, outcome = state_of(report), outcome_of(report)
    sign, heading = STATES[state]
    title = tag("h2", tag("span", sign, class_="sign", aria_hidden="true"), " ", heading)
    gate = _limits(report) if state != "open" else _so_far(report)
    parts = [title, tag("div", tag("div", gate), _placebo(outcome), class_="grounds")]
    notes = [*doubts(report["rounds"]), *(f"Warning: {words}." for words in report["warnings"])]
    notes += [ALL_ROLLED_BACK] if state != "open" and outcome is not None and outcome["rolled_back"] else []
    parts += [tag("p", words, class_="note") for words in notes]
    card = tag("div", *parts, class_=f"verdict {state}")
    tiles = tiles_of(outcome) if outcome is not None else None
    return tag("section", card, tiles, id="verdict", aria_label="Verdict")


def _limits(report: Mapping[str, Any]) -> Safe:
    gate = report["gate"]
    entries = [("✗", "failed: ", words, "bad") for words in gate["reasons"]]
    entries += [("✓", "met: ", words, "good") for words in gate["met"]]
    items = [
        tag(
            "li",
            tag("span", sign, class_=f"sign {kind}", aria_hidden="true"),
            tag("span", said, class_="unseen"),
            words,
        )
        for sign, said, words, kind in entries
    ]
    return tag("ul", *items, class_="limits") if items else tag("p", "No limit was set.")


def _so_far(report: Mapping[str, Any]) -> Safe:
    rounds = len(report["rounds"])
    done = "no round is finished" if not rounds else f"{rounds} {'round is' if rounds == 1 else 'rounds are'} finished"
    return tag("p", f"So far {done}. The gate is judged when the run ends; what is known is below.")


def _placebo(outcome: Mapping[str, Any] | None) -> Safe | None:
    if outcome is None:
        return None
    beats = {True: "It beats its placebo", False: "It does not beat its placebo", None: "Against its placebo"}
    kind = {True: "good", False: "bad", None: ""}[outcome["beats_placebo"]]
    words = outcome["beats_placebo_words"] or UNKNOWN
    return tag("div", tag("h3", beats[outcome["beats_placebo"]], class_=kind), tag("p", words))
