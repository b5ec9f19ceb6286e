"""The frame of the page: head with its Content-Security-Policy, header, contents, footer, and the one script."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from experiments.html.markup import Safe, joined, tag

PARTS = {
    "verdict": "Verdict",
    "comparison": "Before / after",
    "survival": "Queries",
    "pairs": "Classes",
    "mutations": "Mutations",
    "layers": "Layers",
    "clusters": "Kinds",
    "gallery": "Triggers",
    "precision": "Precision",
    "estimate": "Estimate",
    "rounds": "Rounds",
    "environment": "Set-up",
}
"""Ids of the parts, in order, and what the contents call them."""


def document(title: str, report: Mapping[str, Any], sections: Sequence[Safe]) -> str:
    """The whole file around the parts of a completed report."""
    body = tag("body", _header(report), _contents(sections), tag("main", *sections), _footer(report), _script())
    return f"<!DOCTYPE html>\n{tag('html', _head(title), body, lang='en')}\n"


def _head(title: str) -> Safe:
    style, script = _asset("report.css"), _asset("report.js")
    rules = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": f"'sha256-{_hash(style)}'",
        "script-src": f"'sha256-{_hash(script)}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    policy = "; ".join(f"{key} {value}" for key, value in rules.items())
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", Safe(style)),
    )


def _asset(name: str) -> str:
    return (files("experiments") / "html" / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _script() -> Safe:
    return tag("script", Safe(_asset("report.js")))


def _header(report: Mapping[str, Any]) -> Safe:
    pair = report["pair"]
    names = pair.get("name") or " → ".join(Path(str(pair.get(key) or "?")).name for key in ("original", "compressed"))
    facts = [f"Pair: {names}", f"strategy: {_strategy(report)}", f"began {report['created']}"]
    return tag(
        "header",
        tag("p", "dflare report", class_="small"),
        tag("h1", report["name"]),
        tag("p", joined(tag("span", fact) for fact in facts), class_="facts"),
    )


def _strategy(report: Mapping[str, Any]) -> str:
    search = report["config"].get("search")
    return str(search.get("strategy") or "dflare") if isinstance(search, dict) else "dflare"


def _contents(sections: Sequence[Safe]) -> Safe:
    """Links to the parts that this page has."""
    there = [
        (key, words)
        for key, words in PARTS.items()
        if any(part.startswith(f'<section id="{key}"') for part in sections)
    ]
    links = [tag("li", tag("a", words, href=f"#{key}")) for key, words in there]
    return tag("nav", tag("ul", *links), aria_label="Contents")


def _footer(report: Mapping[str, Any]) -> Safe:
    words = (
        "Made by dflare report from the files of the run folder. report.json beside it has every figure "
        f"(schema version {report['schema_version']}); docs/report.md of dflare explains them."
    )
    return tag("footer", tag("p", words))
