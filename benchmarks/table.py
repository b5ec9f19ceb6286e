"""What the benchmark prints: a table a pair, means over the pairs, and the issue's figures with their verdicts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from measure import SEQUENTIAL, UNTIED, Row
from pairs import QUANTISED, REDUCED

BEST, RELEASED = "boundary", "dflare-released"


@dataclass(frozen=True)
class Figure:
    """A figure to reach and what was measured, None where this run did not measure it."""

    name: str
    target: float
    at_most: bool  # whether the measured value is to stay at or below the target
    measured: float | None
    unit: str = ""

    @property
    def verdict(self) -> str:
        """Ok, short, or not measured."""
        if self.measured is None:
            return "not measured"
        reached = self.measured <= self.target if self.at_most else self.measured >= self.target
        return "ok" if reached else "short"

    def line(self) -> str:
        """The figure as a line of text."""
        sign = "<=" if self.at_most else ">="
        came = _number(self.measured) + (self.unit if self.measured is not None else "")
        return f"{self.name:<74} {sign} {self.target:g}{self.unit:<3} {came:>9}  {self.verdict}"


COLUMNS: tuple[tuple[str, Callable[[Row], float | None], bool], ...] = (
    ("seeds", lambda row: row.seeds, False),
    ("success", lambda row: row.success, True),
    ("mean", lambda row: row.mean, False),
    ("median", lambda row: row.median, False),
    ("p95", lambda row: row.p95, False),
    ("pre-fl.", lambda row: row.preflight, False),
    ("trig/s", lambda row: row.per_second, False),
    ("L2", lambda row: row.l2, False),
    ("shrunk", lambda row: row.l2_shrunk, False),
    ("full", lambda row: row.full_share, True),
    ("models", lambda row: row.model_share, True),
    ("ties", lambda row: row.tied, False),
)
"""Heading, value, and whether it is a share."""

RATIOS: tuple[tuple[str, str, Callable[[Row], float | None]], ...] = (
    ("quer./rel.", RELEASED, lambda row: row.mean),
    ("rate/rel.", RELEASED, lambda row: row.per_second),
    ("rate/seq.", SEQUENTIAL, lambda row: row.per_second),
)
"""Heading, the strategy of the same pair that the value is divided by, and the value."""

LEGEND = """\
mean, median, p95: queries per trigger (a seed without one counts as the budget); pre-fl.: images asked before the
search; trig/s: triggers per second, one thread; L2: median distance to the seed on [0, 1], as found and shrunk; full:
share of full batches; models: the two models' own share of the time; ties: candidates whose labels differ by a tie
(of sequential: that ended a walk); last three: divided by the same pair's dflare-released and sequential."""


def headings() -> str:
    """The line above the rows."""
    names = [name for name, _, _ in COLUMNS] + [name for name, _, _ in RATIOS]
    return f"{'strategy':<18}" + "".join(f"{name:>11}" for name in names)


def row_line(row: Row, rows: Sequence[Row]) -> str:
    """A row of the table; `rows` are those to compare it with."""
    if row.refused is not None:
        return f"{row.strategy:<18}  {row.refused}"
    cells = [_share(value(row)) if share else _number(value(row)) for _, value, share in COLUMNS]
    cells += [_number(_ratio(row, rows, base, value)) for _, base, value in RATIOS]
    return f"{row.strategy:<18}" + "".join(f"{cell:>11}" for cell in cells)


def summary(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Family of pairs -> strategy -> number of pairs and means over them; None where a pair lacks the figure."""
    found: dict[str, dict[str, dict[str, float | int | None]]] = {}
    for family in (QUANTISED, REDUCED):
        for strategy in dict.fromkeys(row.strategy for row in rows):
            some = [row for row in rows if (row.family, row.strategy) == (family, strategy) and row.refused is None]
            if some:
                names = ("success", "mean", "per_second", "l2", "l2_shrunk")
                means = {name: mean(getattr(row, name) for row in some) for name in names}
                found.setdefault(family, {})[strategy] = {"pairs": len(some), **means}
    return found


def summary_lines(rows: Sequence[Row]) -> list[str]:
    """The means as text, with the queries divided by those of `dflare-released` over the same number of pairs."""
    lines = []
    for family, strategies in summary(rows).items():
        lines.append(f"mean over the {family} pairs")
        released = strategies.get(RELEASED, {})
        for name, means in strategies.items():
            alike = released.get("pairs") == means["pairs"]
            ratio = _divide(means["mean"], released.get("mean")) if alike else None
            lines.append(
                f"  {name:<18} pairs {means['pairs']}  success {_share(means['success'])}  queries "
                f"{_number(means['mean'])}  x released {_number(ratio)}  L2 {_number(means['l2'])}  "
                f"shrunk {_number(means['l2_shrunk'])}"
            )
    return lines


def figures(rows: Sequence[Row], workers: float | None) -> list[Figure]:
    """The figures of issue 3, point 8. Ratios of queries and distances are ratios of means over the pairs.

    Speed and the models' share are those of the slowest of the int8 and quantised pairs of a network. Where ties
    would end the sequential loop's walks, it is the loop that goes on after them: a tie is no trigger.
    """

    def over(families: tuple[str, ...], name: str, base: str | None = None, base_name: str = "") -> float | None:
        pairs = [row.pair for row in rows if row.family in families and row.strategy == BEST]
        value = mean(getattr(row, name) for row in _of(rows, pairs, BEST))
        if base is None:
            return value
        below = _of(rows, pairs, base)
        return _divide(value, mean(getattr(row, base_name) for row in below)) if len(below) == len(pairs) else None

    def slowest(networks: tuple[str, ...], value: Callable[[Row], float | None]) -> float | None:
        some = [row for row in rows if row.strategy == BEST and row.family == QUANTISED and row.network in networks]
        values = [value(row) for row in some]
        return min((one for one in values if one is not None), default=None) if None not in values else None

    def speed(row: Row) -> float | None:
        base = UNTIED if _of(rows, [row.pair], UNTIED) else SEQUENTIAL
        return _ratio(row, rows, base, lambda one: one.per_second)

    both, lenets, resnet = (QUANTISED, REDUCED), ("LeNet-1", "LeNet-5"), ("ResNet-20",)
    return [
        Figure("seeds on which boundary finds a trigger, all pairs", 1, False, over(both, "success")),
        *(
            figure
            for family, ratio, most in ((QUANTISED, 0.2, 12), (REDUCED, 0.25, 5))
            for figure in (
                Figure(f"queries per trigger against dflare-released, {family}", ratio, True,
                       over((family,), "mean", RELEASED, "mean"), "x"),
                Figure(f"queries per trigger, {family}", most, True, over((family,), "mean")),
            )
        ),
        Figure("median L2 as found against dflare-released's", 0.85, True, over(both, "l2", RELEASED, "l2"), "x"),
        Figure("median L2 after shrinking against dflare-released's as found", 0.25, True,
               over(both, "l2_shrunk", RELEASED, "l2"), "x"),
        Figure("triggers per second against sequential, LeNet pairs", 20, False, slowest(lenets, speed), "x"),
        Figure("triggers per second against sequential, ResNet-20 pairs", 5, False, slowest(resnet, speed), "x"),
        Figure("models' own share of the time, LeNet-5", 0.5, False,
               slowest(("LeNet-5",), lambda row: row.model_share)),
        Figure("models' own share of the time, ResNet-20", 0.85, False,
               slowest(resnet, lambda row: row.model_share)),
        Figure("two workers against one, ResNet-20", 1.8, False, workers, "x"),
    ]  # fmt: skip


def mean(values: Iterable[float | None]) -> float | None:
    """The mean, None where there is nothing or something is missing."""
    known = list(values)
    return fmean(one for one in known if one is not None) if known and None not in known else None


def _of(rows: Sequence[Row], pairs: Sequence[str], strategy: str) -> list[Row]:
    return [row for row in rows if row.pair in pairs and row.strategy == strategy and row.refused is None]


def _ratio(row: Row, rows: Sequence[Row], base: str, value: Callable[[Row], float | None]) -> float | None:
    below = _of(rows, [row.pair], base)
    return _divide(value(row), value(below[0])) if below else None


def _divide(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 1000 or value == int(value) else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
