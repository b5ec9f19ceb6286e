"""Mixed precision: what more bits cost and what they are worth, one line for each order in which they were tried."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.html.from_markdown import render
from experiments.html.markup import Safe, joined, section, tag, text
from experiments.html.plots import Scale, axes, figure, legend, polyline, svg, words_at
from experiments.report_precision import precision_section

NAMES = {"greedy": "by what each is worth (greedy)", "size": "the smallest first (size)", "chance": "by chance"}


def frontier_section(rounds: Sequence[Mapping[str, Any]], headline: Mapping[str, Any] | None) -> Safe | None:
    """The part of the page on mixed precision, None where no bits were asked for."""
    found = next((entry["precision"] for entry in rounds if entry.get("precision")), None)
    if found is None:
        return None
    words = render(precision_section(rounds, headline), "Mixed precision")
    drawn = [_figure(found)] if any(len(steps) > 1 for steps in found["orders"].values()) else []
    return section("precision", "Is a mixed precision worth its bytes?", *drawn, words)


def _figure(found: Mapping[str, Any]) -> Safe:
    orders = found["orders"]
    steps = [step for order in orders.values() for step in order]
    sizes, shares = [step["bytes"] for step in steps], [step["differing"]["value"] or 0.0 for step in steps]
    x = Scale(min(sizes), max(sizes), 62, 462)
    y = Scale(0, max(shares, default=0) * 1.05 or 1, 250, 24)
    # colours and dashes of the survival curves, so that one legend's habits serve both
    kinds = dict(zip(orders, ("after", "before", "placebo", "noop"), strict=False))
    lines = [
        polyline(_points(order, x, y), class_=f"curve {kinds.get(name, 'noop')}") for name, order in orders.items()
    ]
    marks = _taken(found, x, y)
    title = "Bytes of the file against differing labels"
    drawing = svg((480, 292), title, axes(x, y, ("bytes of the file", "labels differ"), share=True), *lines, marks)
    names = legend({kind: str(NAMES.get(name, name)) for name, kind in kinds.items()})
    said = (
        "Share of mutated validate images on which the labels differ, ties included; lower and further left is better."
    )
    return figure("frontier", title, said, joined([names, drawing]), dict(orders))


def _points(steps: Sequence[Mapping[str, Any]], x: Scale, y: Scale) -> list[tuple[float, float]]:
    return [(x(step["bytes"]), y(step["differing"]["value"] or 0.0)) for step in steps]


def _taken(found: Mapping[str, Any], x: Scale, y: Scale) -> Safe:
    """A ring around the file that was taken."""
    steps, number = found["orders"].get(found["choose"]) or [], found["taken"]
    if number is None or not 0 <= number < len(steps):
        return text("")
    ((left, top),) = _points([steps[number]], x, y)
    ring = tag("circle", cx=f"{left:g}", cy=f"{top:g}", r="6", class_="ring")
    return joined([ring, words_at((left, top - 10), "taken")])
