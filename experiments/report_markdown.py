"""The page that people read: report.md, verdict first."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from experiments.pictures import Picture
from experiments.report_changes import change_words
from experiments.report_clusters import cluster_section
from experiments.report_layers import layer_section
from experiments.report_models import ELSEWHERE, continued_at, model_section
from experiments.report_precision import precision_section
from experiments.report_rows import SHARE, comparison, dig, full, short
from experiments.report_text import escape, fenced, table
from experiments.report_verification import HEADER, verification_rows
from repair.proof.verdict import percent

ALL_ROLLED_BACK = (
    "Every repair broke more clean images of the validate side than the gate allows and was rolled back; "
    "the final model is the one that was handed in."
)
"""Said of a headline whose final model is the first one."""

SEARCHES = (
    ("train", ("search", "train")),
    ("validate", ("search", "validate")),
    ("judge, before", ("search", "before")),
    ("judge, by another strategy", ("search", "other")),
    ("judge, after", ("search", "after")),
    ("judge, placebo", ("placebo", "search", "after")),
    ("judge, no-op", ("noop", "search", "after")),
    ("judge, bits alone", ("bits", "search", "after")),
    ("judge, placebo without the bits", ("eight_bit", "search", "after")),
)
COUNTS = ("seeds", "found", "already", "unconfirmed", "tied", "censored", "timed_out")


def markdown(report: Mapping[str, Any], pictures: Sequence[Picture], settings: str) -> str:
    """The whole page of a completed report; `settings` is the text of config.yaml."""
    headline = report["headline"]
    parts = [
        [f"# {escape(report['name'])}", ""],
        verdict_lines(report),
        comparison_section(headline) if headline else [],
        rounds_section(report["rounds"]),
        precision_section(report["rounds"], headline),
        layer_section(report["rounds"]),
        cluster_section(report["rounds"]),
        searches_section(report["rounds"], headline),
        verification_section(report["rounds"]),
        _pictures(pictures),
        model_section(report["models"], report["warnings"]),
        environment_section(report, settings),
    ]
    return "\n".join(line for part in parts for line in part).rstrip() + "\n"


def verdict_lines(report: Mapping[str, Any]) -> list[str]:
    """The verdict of the gate with its reasons, and whether the repair beats its placebo."""
    gate, headline = report["gate"], report["headline"]
    words = [f"**The release gate {'passed' if gate['passed'] else 'failed'}.**", ""]
    words += [f"- failed: {escape(reason)}" for reason in gate["reasons"]]
    words += [f"- met: {escape(reason)}" for reason in gate["met"]]
    words += ["- no limit was set"] if not gate["reasons"] + gate["met"] else []
    words += [""]
    if headline:
        said = headline["beats_placebo_words"] or "Whether the repair beats its placebo is not known."
        words += [f"**{escape(said)}**", ""]
        if headline["rolled_back"]:
            words += [ALL_ROLLED_BACK, ""]
    return words


def comparison_section(headline: Mapping[str, Any]) -> list[str]:
    """The part on what changed, beside the two controls."""
    rows = [(row.label, *(full(row.kind, cell) for cell in row.cells)) for row in comparison(headline)]
    lines = ["## Before and after", ""]
    lines += [
        "Held-out triggers are those that were found against the model as it was handed in, from seed images that no "
        "training saw. The placebo is the same repair with each trigger replaced by its clean seed image; the no-op "
        "changes nothing. Brackets hold 95 % intervals; they cover the choice of images, not the randomness of "
        "training, so compare at least three seeds before you claim something.",
        "",
    ]
    lines += table(["figure", "before", "after", "placebo", "no-op"], rows)
    original = dig(headline, "accuracy", "original")
    lines += [f"Accuracy of the original: {full(SHARE, original)}.", ""] if short(SHARE, original) != "–" else []
    for words in change_words(headline):
        lines += [f"- {words}"]
    lines += [""]
    lengths = dig(headline, "repair", "probe_by_length") or {}
    places = ("before", "after")
    by_length = [(escape(key), *(full(SHARE, pair[when]) for when in places)) for key, pair in lengths.items()]
    return lines + (table(["mutations of a probe image", "deviate before", "after"], by_length) if by_length else [])


def rounds_section(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """The part with a row for each finished round."""
    if not rounds:
        return ["## Rounds", "", "No round was finished.", ""]
    figures = ("efficacy", "generalization", "generalization_new", "earlier", "drawdown", "net", "probe_after")
    header = ["round", "triggers", "steps", "efficacy", "held-out", "new held-out", "earlier", "broken", "net", "probe"]
    rows = [
        (
            f"{_number(entry['round'])}{' (rolled back)' if entry['rolled_back'] else ''}",
            *(_number(dig(entry, "repair", key)) for key in ("training_triggers", "steps")),
            *(short(SHARE, dig(entry, "repair", key)) for key in figures),
            short("times", dig(entry, "search", "queries_ratio")),
            _number(entry["seconds"]),
        )
        for entry in rounds
    ]
    return ["## Rounds", "", *table([*header, "queries ratio", "seconds"], rows)]


def searches_section(rounds: Sequence[Mapping[str, Any]], headline: Mapping[str, Any] | None) -> list[str]:
    """The part with a row for each search; none where none is finished."""
    header = ["search", *(name.replace("_", " ") for name in COUNTS), "success", "mean", "median", "p95"]
    outcomes = [(f"round {_number(entry['round'])}", entry) for entry in rounds]
    outcomes += [("headline", headline)] if headline else []
    rows = list(_search_rows(outcomes))
    words = (
        "*already*: deviating unmutated; *unconfirmed*: deviations in a batch that were gone when asked alone; "
        "*tied*: different answers among equally high scores, which count as agreement; *censored*: chains that hit "
        "their query budget, which they count as; a quantile that falls among them is –. The last three columns are "
        "queries per trigger."
    )
    return ["## Searches", "", words, "", *table(header, rows)] if rows else []


def _search_rows(outcomes: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[tuple[str, ...]]:
    for name, outcome in outcomes:
        for side, path in SEARCHES:
            figures = dig(outcome, *path)
            if figures is not None:
                quantiles = (dig(figures, "queries_per_trigger", key) for key in ("mean", "median", "p95"))
                yield (
                    f"{name}, {side}",
                    *(_number(figures[key]) for key in COUNTS),
                    full(SHARE, figures["success_rate"]),
                    *(short("queries", quantile) for quantile in quantiles),
                )


def verification_section(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """The part on triggers asked again by freshly opened models; none where that was not done."""
    rows = [[escape(cell) for cell in row] for row in verification_rows(rounds)]
    words = (
        "Every trigger asked again, alone, from its saved image, by freshly opened models in a new process. *deviate*: "
        "every time it was asked; *tied*: different answers among equally high scores; *agree*: the same answer at "
        "least once, so no trigger here; *changed*: scores that were not the same to the last bit every time, of a "
        "model that is not deterministic."
    )
    return ["## Verification", "", words, "", *table(HEADER, rows)] if rows else []


def _pictures(pictures: Sequence[Picture]) -> list[str]:
    lines = ["## The clearest deviations", "", "Seed image, trigger, difference (amplified).", ""] if pictures else []
    for picture in pictures:
        shown, (original, compressed) = picture.deviation, picture.deviation.labels
        steps = "" if shown.mutations is None else f", {_counted(shown.mutations, 'mutation', 'mutations')}"
        said = (
            f"the original says {original} ({percent(shown.confidences[0])} sure), "
            f"the compressed {compressed} ({percent(shown.confidences[1])} sure)"
        )
        lines += [
            f"![{said}]({picture.file})",
            "",
            f"Seed `{shown.seed:016x}`: {said}; {_counted(shown.queries, 'query', 'queries')}{steps}, "
            f"no pixel changed by more than {shown.largest_change} of 255; difference × {picture.amplification:.1f}.",
            "",
        ]
    return lines


def environment_section(report: Mapping[str, Any], settings: str) -> list[str]:
    """The parts on what the run ran on, and on its settings."""
    facts = {"created": report["created"], **{f"pair {key}": value for key, value in report["pair"].items()}}
    facts |= {key: value for key, value in report["environment"].items() if key not in ELSEWHERE}
    facts["continued"] = continued_at(report["environment"])
    shown = {key: json.dumps(value) if isinstance(value, dict | list) else value for key, value in facts.items()}
    rows = [(escape(key), escape(value)) for key, value in shown.items() if value is not None]
    return [
        "## Environment",
        "",
        *table(["what", "value"], rows, numbers=False),
        "## Settings",
        "",
        *fenced(settings, "yaml"),
    ]


def _counted(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
