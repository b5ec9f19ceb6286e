"""The figures that decide, one card each: value, what it was before, and its controls on one scale."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.html.markup import Safe, joined, tag
from experiments.html.plots import Scale, line, svg, words_at
from experiments.report_rows import SHARE, Cell, Lookup, Row, full, short


class Tile(NamedTuple):
    """One figure that decides, with its row of the comparison."""

    title: str
    row: Row
    says: str  # which way is better


def tiles_of(outcome: Mapping[str, Any]) -> Safe:
    """The cards of a Round or headline; those whose figure is missing are left out."""
    return tag("div", *(_tile(tile) for tile in _tiles(outcome)), _costs(outcome), class_="tiles")


def _tiles(outcome: Mapping[str, Any]) -> Sequence[Tile]:
    look = Lookup(outcome)
    ratio = look.row("", "times", None, ("search", "queries_ratio"))
    accuracy = look.row("", SHARE, ("accuracy", "before"), ("accuracy", "after"))
    tiles = [
        Tile("Held-out triggers repaired", look.repair("", "generalization"), "higher is better"),
        Tile("Probe images that deviate", look.repair("", "probe_after", "probe_before"), "lower is better"),
        Tile("Queries of a fresh search, after / before", ratio, "higher is better"),
        Tile("Clean images broken", look.repair("", "drawdown"), "lower is better"),
        Tile("Accuracy", accuracy, "higher is better"),
    ]
    return [tile for tile in tiles if short(tile.row.kind, tile.row.after) != "–"]


def _tile(tile: Tile) -> Safe:
    row = tile.row
    value = short(row.kind, row.after)
    before = short(row.kind, row.before)
    change = tag("p", f"{before} before", class_="small") if before != "–" else None
    said = tag("p", tile.says, class_="small")
    figures = tag("div", tag("p", value, class_="big"), change, said)
    return tag("div", tag("h3", tile.title), tag("div", figures, _forest(tile), class_="halves"), class_="tile")


def _forest(tile: Tile) -> Safe:
    """Value and 95 % interval of the repair and its controls on one scale."""
    row = tile.row
    names = (("before", row.before), ("after", row.after), ("placebo", row.placebo), ("noop", row.noop))
    known = [(name, cell) for name, cell in names if cell is not None and cell.get("value") is not None]
    ends = [number for _, cell in known for number in _ends(cell)]
    low = min(ends) if min(ends) > max(ends) / 2 else 0.0  # accuracies would all lie at the right end
    scale = Scale(low, max(max(ends), low + 1e-9), 62, 214)
    words = {"before": "before", "after": "after", "placebo": "placebo", "noop": "no-op"}
    parts, said = [], []
    for place, (name, cell) in enumerate(known):
        middle = place * 17 + 9
        start, end = _ends(cell)
        parts.append(words_at((56, middle + 4), words[name], "end"))
        parts.append(line((scale(start), middle), (scale(end), middle), class_=f"curve {name} solid"))
        parts.append(tag("circle", cx=f"{scale(cell['value']):g}", cy=f"{middle:g}", r="4", class_=f"dot {name}"))
        said.append(f"{words[name]} {full(row.kind, cell)}")
    bottom = len(known) * 17 + 2
    parts.append(line((62, bottom), (214, bottom), class_="axis"))
    parts += [
        words_at((62, bottom + 13), _end(row.kind, low), "start"),
        words_at((214, bottom + 13), _end(row.kind, scale.high), "end"),
    ]
    return svg((220, bottom + 16), f"{tile.title}: {'; '.join(said)}", *parts, class_="forest")


def _end(kind: str, value: float) -> str:
    return short(kind, {"value": value})


def _ends(cell: Mapping[str, Any]) -> tuple[float, float]:
    """Both ends of the interval, the value itself where one is open."""
    low, high = (cell["value"] if cell.get(end) is None else cell[end] for end in ("low", "high"))
    return low, high


def _costs(outcome: Mapping[str, Any]) -> Safe | None:
    look = Lookup(outcome)
    rows = [
        ("file", look.cost("", "bytes", "bytes"), " bytes"),
        ("one image", look.cost("", "milliseconds", "latency"), ""),
    ]
    lines = [
        tag("p", tag("span", f"{name}: ", class_="small"), _from(row.before, row.after, row.kind), unit)
        for name, row, unit in rows
        if short(row.kind, row.after) != "–"
    ]
    return tag("div", tag("h3", "Cost, before → after"), *lines, class_="tile") if lines else None


def _from(before: Cell, after: Cell, kind: str) -> Safe:
    return joined([short(kind, before), " → ", tag("strong", short(kind, after))])
