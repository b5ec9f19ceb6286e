"""Plots as SVG, drawn line by line: scales, ticks, axes, and the figure around them with its data."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.html.markup import Safe, download, embedded, joined, tag

Point = tuple[float, float]


class Scale(NamedTuple):
    """Where numbers between `low` and `high` lie between the pixels `start` and `end`; beyond, at the ends."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a number, to a tenth."""
        low, high, at = (self._measure(number) for number in (self.low, self.high, value))
        share = (at - low) / (high - low) if high > low else 0.5
        return round(self.start + min(1.0, max(0.0, share)) * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Round numbers along the scale: 1, 2 or 5 times a power of ten, about five of them."""
        if self.logarithmic:
            factors = (1, 2, 5) if self.high < 1000 * self.low else (1,)
            powers = range(math.floor(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            numbers = [factor * 10.0**power for power in powers for factor in factors]
            return [number for number in numbers if self.low <= number <= self.high]
        step = _step((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        return [round(step * number, 12) for number in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _measure(self, value: float) -> float:
        return math.log10(max(value, self.low)) if self.logarithmic else value


def _step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))


def figure(identifier: str, title: str, words: Any, drawing: Safe, data: Any, more: Any = None) -> Safe:
    """A plot with its title, what it says in words, and its data as JSON beneath it."""
    head = tag("figcaption", tag("strong", title), " ", words)
    button = download(f"data-{identifier}", "Download the data (JSON)")
    return tag("figure", head, drawing, more, button, embedded(f"data-{identifier}", data), id=f"figure-{identifier}")


def svg(size: tuple[float, float], title: str, *children: Any, class_: str = "plot") -> Safe:
    """A drawing of (width, height) units with a title for those who do not see it."""
    width, height = size
    box = f"0 0 {width:g} {height:g}"
    return tag("svg", tag("title", title), *children, viewBox=box, role="img", class_=class_, aria_label=title)


def words_at(place: Point, said: Any, anchor: str = "middle", **attributes: Any) -> Safe:
    """Text at a point."""
    return tag("text", said, x=f"{place[0]:g}", y=f"{place[1]:g}", text_anchor=anchor, **attributes)


def line(start: Point, end: Point, **attributes: Any) -> Safe:
    """A straight line."""
    x1, y1, x2, y2 = (f"{number:g}" for number in (*start, *end))
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)


def rectangle(corner: Point, size: Point, *children: Any, **attributes: Any) -> Safe:
    """A rectangle by its upper left corner and its size."""
    x, y, width, height = (f"{number:g}" for number in (*corner, *size))
    return tag("rect", *children, x=x, y=y, width=width, height=height, **attributes)


def polyline(points: Iterable[Point], **attributes: Any) -> Safe:
    """A line through points."""
    return tag("polyline", points=" ".join(f"{x:g},{y:g}" for x, y in points), fill="none", **attributes)


def area(upper: Sequence[Point], lower: Sequence[Point], **attributes: Any) -> Safe:
    """What lies between two lines."""
    points = " ".join(f"{x:g},{y:g}" for x, y in [*upper, *reversed(lower)])
    return tag("polygon", points=points, **attributes)


def axes(x: Scale, y: Scale, names: tuple[str, str], share: bool = False) -> Safe:
    """Both axes with ticks, grid lines and their names; `share`: y in per cent."""
    parts: list[Safe] = []
    for tick in y.ticks():
        said = f"{100 * tick:g} %" if share else number(tick)
        parts.append(line((x.start, y(tick)), (x.end, y(tick)), class_="grid"))
        parts.append(words_at((x.start - 6, y(tick) + 4), said, "end"))
    for tick in x.ticks():
        parts.append(line((x(tick), y.start), (x(tick), y.start + 5), class_="axis"))
        parts.append(words_at((x(tick), y.start + 18), number(tick)))
    parts.append(line((x.start, y.start), (x.end, y.start), class_="axis"))
    parts.append(words_at(((x.start + x.end) / 2, y.start + 36), names[0], class_="name"))
    parts.append(words_at((2, y.end - 10), names[1], "start", class_="name"))
    return joined(parts)


def legend(names: Mapping[str, str]) -> Safe:
    """What the lines of a plot are: class of the line -> words."""
    entries = []
    for kind, words in names.items():
        sample = line((0, 5), (26, 5), class_=f"curve {kind}")
        entries.append(tag("li", tag("svg", sample, viewBox="0 0 26 10", class_="key", aria_hidden="true"), words))
    return tag("ul", *entries, class_="legend")


def number(value: float) -> str:
    """A tick's number: `1,000`, `0.25`."""
    return f"{value:,.0f}" if value == round(value) else f"{value:g}"


def bars(title: str, rows: Sequence[tuple[str, float, float | None, float | None, str]]) -> Safe:
    """Horizontal bars of (name, share, low, high, words), the shares of the largest; whiskers where there are ends."""
    most = max([entry[3] or entry[1] for entry in rows], default=1) or 1
    room = 6.6 * max((len(said) for *_, said in rows), default=0)  # a character of 12 pixels is about so wide
    x, height = Scale(0, most, 150, max(230, 470 - room)), 26
    parts = []
    for place, (name, share, low, high, said) in enumerate(rows):
        top = place * height + 4
        middle = top + 9
        parts.append(words_at((142, middle + 4), clipped(name, 20), "end"))
        parts.append(rectangle((150, top), (max(1.0, x(share) - 150), 18), class_="bar"))
        if low is not None and high is not None:
            parts.append(line((x(low), middle), (x(high), middle), class_="whisker"))
        parts.append(words_at((x(max(share, high or 0)) + 6, middle + 4), said, "start"))
    return svg((480, len(rows) * height + 8), title, *parts)


def clipped(name: str, most: int) -> Safe:
    """A name of at most so many characters, whole in its tooltip."""
    short = name if len(name) <= most else f"{name[: most - 1]}…"
    return joined([short, tag("title", name) if short != name else None])
