"""report.html: the whole page, verdict first, in one file that asks no network."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.html.document import document
from experiments.html.estimates import estimate_section
from experiments.html.from_markdown import render
from experiments.html.frontier import frontier_section
from experiments.html.gallery import gallery_section
from experiments.html.labels import Labels
from experiments.html.layers import layers_section
from experiments.html.markup import Safe, data_uri, details, download, embedded, joined, section, tag
from experiments.html.mutations import mutations_section, naming
from experiments.html.pairs import pairs_section
from experiments.html.shards import Trigger, read_triggers, round_folders
from experiments.html.survival import survival_section
from experiments.html.verdict import STATES, outcome_of, state_of, verdict_section
from experiments.repaired import read_repaired
from experiments.report_clusters import cluster_section
from experiments.report_markdown import (
    comparison_section,
    environment_section,
    rounds_section,
    searches_section,
    verification_section,
)
from experiments.report_models import model_section

MOST_PICTURE_BYTES = 2_000_000
"""Of a picture that another stage left in the run folder; a larger one is none of ours."""


def page(run_dir: Path, report: Mapping[str, Any], settings: str) -> str:
    """The page of a completed report; `settings` is the text of config.yaml.

    Reads the shards of the run folder, its `repaired.json` and its `estimate.json`. Raises `InputError` for a damaged
    one. The same folder gives the same page.
    """
    title = f"{report['name']}: {STATES[state_of(report)][1].lower()}"
    sections = [part for part in _sections(run_dir, report, settings) if part is not None]
    return document(title, report, sections)


def _sections(run_dir: Path, report: Mapping[str, Any], settings: str) -> Iterable[Safe | None]:
    labels, name = Labels(report["environment"]), naming(report["config"])
    triggers = _triggers(run_dir)
    repaired = read_repaired(run_dir)
    rounds, headline = report["rounds"], report["headline"]
    yield verdict_section(report)
    yield _comparison(report)
    yield survival_section(run_dir, report)
    yield pairs_section(run_dir, report, triggers, labels, repaired)
    yield mutations_section(triggers, name)
    yield layers_section(rounds)
    yield _clusters(run_dir, rounds)
    yield gallery_section(triggers, labels, name, repaired)
    yield frontier_section(rounds, headline)
    yield estimate_section(run_dir)
    yield _rendered("rounds", "Rounds and searches", {"Rounds": rounds_section(rounds)}, _searches(rounds, headline))
    yield _environment(report, settings)


def _triggers(run_dir: Path) -> list[Trigger]:
    """What the rounds found, in order."""
    folders = round_folders(run_dir)
    return [trigger for number, folder in folders.items() for trigger in read_triggers(folder / "triggers", number)]


def _comparison(report: Mapping[str, Any]) -> Safe | None:
    outcome = outcome_of(report)
    if outcome is None:
        return None
    title = "Before and after" if report["headline"] else f"Before and after, round {outcome['round']}"
    data = {key: outcome[key] for key in ("search", "repair", "accuracy", "cost", "placebo", "noop")}
    lines = comparison_section(outcome)
    place = next((at for at, line in enumerate(lines) if line.startswith("| mutations of a probe")), len(lines))
    shown = render(lines[:place], "Before, after, and for the two controls; 95 % intervals")
    if lines[place:]:
        by_length = "Deviation rate on the probe by the number of mutations"
        shown = joined([shown, details(by_length, render(lines[place:], by_length))])
    saved = download("data-comparison", "Download these figures (JSON)")
    return section("comparison", title, shown, saved, embedded("data-comparison", data))


def _clusters(run_dir: Path, rounds: Sequence[Mapping[str, Any]]) -> Safe | None:
    known = [entry for entry in rounds if entry.get("clusters")]
    if not known:
        return None

    def drawn(file: str, words: str) -> Safe | None:
        return _picture(run_dir / file, words)

    parts = []
    for entry in reversed(known):  # here a picture has its caption
        lines = [line for line in cluster_section([entry]) if not re.fullmatch(r"(Kind \d+|Others)\.", line)]
        parts.append(render(lines, f"Kinds of images, round {entry['round']}", drawn))
    older = [details("Earlier rounds", *parts[1:])] if parts[1:] else []
    return section("clusters", "Which kinds of images?", parts[0], *older)


def _picture(path: Path, words: str) -> Safe | None:
    """A PNG file of the run folder, None where there is none; what is no PNG is not shown."""
    if not path.is_file() or path.stat().st_size > MOST_PICTURE_BYTES:
        return None
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    picture = tag("img", src=data_uri(content), alt=words, class_="sheet")
    return tag("figure", picture, tag("figcaption", words, class_="small"))


def _searches(rounds: Sequence[Mapping[str, Any]], headline: Mapping[str, Any] | None) -> dict[str, list[str]]:
    return {
        "Searches": searches_section(rounds, headline),
        "Verification in a fresh process": verification_section(rounds),
    }


def _rendered(identifier: str, title: str, open_: Mapping[str, list[str]], folded: Mapping[str, list[str]]) -> Safe:
    """Parts of report.md, the latter ones folded."""
    parts = [render(lines, name) for name, lines in open_.items()]
    parts += [details(name, render(lines, name)) for name, lines in folded.items() if lines]
    return section(identifier, title, *parts)


def _environment(report: Mapping[str, Any], settings: str) -> Safe:
    facts, shown = environment_section(report, settings), model_section(report["models"], report["warnings"])
    place = facts.index("## Settings")
    return section(
        "environment",
        "Models, environment and settings",
        render(shown, "Models and runtimes"),
        details("Environment", render(facts[:place], "Environment")),
        details("Settings (config.yaml)", render(facts[place:], "Settings")),
        download("data-report", "Download report.json"),
        embedded("data-report", report),
    )
