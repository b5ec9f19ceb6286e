"""What the repair benchmark prints: a line a pair, a column's means over its pairs, and the issue's figures."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from repair_rows import BITS, DISTILLED, INT8, PRUNED
from table import Figure

Row = Mapping[str, Any]
Value = Callable[[Row], float | None]

STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
"""Two-sided 95 % points of Student's t by degrees of freedom, for means over seeds."""


def generalization(row: Row) -> float | None:
    """Share of held-out triggers on which the pair agrees after the repair, in percent."""
    return _percent(row["repair"], "generalization")


def other(row: Row) -> float | None:
    """The same for triggers that another search strategy found."""
    return _percent(row["repair"], "generalization_other")


def over(control: str) -> Value:
    """Generalization minus a control's, in percentage points."""

    def difference(row: Row) -> float | None:
        ours, theirs = generalization(row), _percent(row[control], "generalization") if row[control] else None
        return None if ours is None or theirs is None else ours - theirs

    return difference


def probe(row: Row) -> float | None:
    """Probe deviation rate, after / before."""
    return _change(row, "probe")


def labels(row: Row) -> float | None:
    """Share of probe images with differing labels, after / before: with the ties, which flatter 8-bit outputs."""
    return _change(row, "probe_labels")


def queries(row: Row) -> float | None:
    """Queries per trigger, after / before."""
    return _value(row["repair"], "queries_ratio")


def drawdown(row: Row) -> float | None:
    """Clean images broken, in percent."""
    return _percent(row["repair"], "drawdown")


def fixed_broken(row: Row) -> float | None:
    """Clean images fixed / broken; none where none is broken."""
    fixed, broken = (_value(row["repair"], name) for name in ("fixed", "drawdown"))
    return fixed / broken if fixed is not None and broken else None


def accuracy(row: Row) -> float | None:
    """Accuracy after - before, in percentage points."""
    after, before = (_percent(row["repair"], name) for name in ("accuracy_after", "accuracy_before"))
    return after - before if after is not None and before is not None else None


def more_bytes(row: Row) -> float | None:
    """Bytes of the file, after / before."""
    return float(row["cost"]["bytes_after"] / row["cost"]["bytes_before"])


COLUMNS: tuple[tuple[str, Value, int], ...] = (
    ("generalization %", generalization, 1),
    ("over placebo", over("placebo"), 1),
    ("over 8-bit placebo", over("eight_bit"), 1),
    ("other strategy's %", other, 1),
    ("probe after/before", probe, 3),
    ("probe labels after/before", labels, 3),
    ("queries after/before", queries, 2),
    ("broken %", drawdown, 2),
    ("fixed/broken", fixed_broken, 1),
    ("accuracy", accuracy, 2),
    ("bytes", more_bytes, 3),
    ("repair s", lambda row: row["cost"]["seconds"], 0),
)
"""Heading, value of a row, digits."""


def lines(rows: Sequence[Row]) -> list[str]:
    """The table in Markdown: every pair as a mean over its seeds, then every column as a mean over its pairs."""
    head = "| pair | seeds | " + " | ".join(name for name, _, _ in COLUMNS) + " |"
    found = [head, "| :-- |" + " --: |" * (len(COLUMNS) + 1)]
    for kind in (DISTILLED, PRUNED, INT8, BITS):
        some = [row for row in rows if row["kind"] == kind]
        for pair in dict.fromkeys(row["pair"] for row in some):
            mine = [row for row in some if row["pair"] == pair]
            cells = [_number(_mean(map(value, mine)), digits) for _, value, digits in COLUMNS]
            found.append(f"| {pair} | {len(mine)} | {' | '.join(cells)} |")
        if some:
            cells = [_with_interval(some, value, digits) for _, value, digits in COLUMNS]
            found.append(f"| **mean, {kind}** | | {' | '.join(cells)} |")
    return found


def mean(rows: Sequence[Row], value: Value) -> float | None:
    """The mean over the pairs of each pair's mean over its seeds; None where a pair lacks the figure."""
    pairs = dict.fromkeys(row["pair"] for row in rows)
    return _mean(_mean(value(row) for row in rows if row["pair"] == pair) for pair in pairs)


def interval(rows: Sequence[Row], value: Value) -> float | None:
    """Half the width of the 95 % interval over seeds of the mean over the pairs that have every seed (Student's t)."""
    seeds = {row["seed"] for row in rows}
    whole = [p for p in dict.fromkeys(r["pair"] for r in rows) if {r["seed"] for r in rows if r["pair"] == p} == seeds]
    means = [_mean(value(r) for r in rows if r["seed"] == seed and r["pair"] in whole) for seed in sorted(seeds)]
    known = [number for number in means if number is not None]
    if len(known) != len(means) or len(known) - 1 not in STUDENT:
        return None
    return STUDENT[len(known) - 1] * stdev(known) / math.sqrt(len(known))


def figures(rows: Sequence[Row]) -> list[Figure]:
    """The figures of issue 5, point 8, in the order of its table."""

    def of(kind: str, some: Callable[[Row], bool] = lambda row: True) -> list[Row]:
        return [row for row in rows if row["kind"] == kind and some(row)]

    def at_least(name: str, value: Value, unit: str, targets: Mapping[str, float]) -> list[Figure]:
        return [
            Figure(f"{kind}: {name}", target, False, mean(of(kind), value), unit) for kind, target in targets.items()
        ]

    def at_most(
        name: str, value: Value, unit: str, targets: Mapping[str, float], some: Any = lambda r: True
    ) -> list[Figure]:
        return [Figure(f"{k}: {name}", target, True, mean(of(k, some), value), unit) for k, target in targets.items()]

    def mnist(row: Row) -> bool:
        return str(row["pair"]).startswith("mnist")

    resnet = [row for row in rows if not mnist(row)]
    return [
        *at_least("generalization", generalization, "%", {DISTILLED: 80, PRUNED: 80, INT8: 75, BITS: 92}),
        *at_least("over the placebo", over("placebo"), "pt", {DISTILLED: 40, PRUNED: 25, INT8: 5, BITS: 0}),
        *at_least("over the 8-bit placebo", over("eight_bit"), "pt", {BITS: 25}),
        *at_most("probe rate, after / before", probe, "x", {DISTILLED: 0.4, PRUNED: 0.5, INT8: 0.75, BITS: 0.2}),
        *at_least("queries, after / before", queries, "x", {DISTILLED: 2, PRUNED: 1.7, INT8: 1.15, BITS: 2}),
        *at_most("drawdown, MNIST pairs", drawdown, "%", {DISTILLED: 0.4, PRUNED: 0.1, INT8: 0.1, BITS: 0.1}, mnist),
        *(
            Figure(f"{kind}: fixed / broken, ResNet-20", target, False,
                   mean([row for row in resnet if row["kind"] == kind], fixed_broken), "x")
            for kind, target in ((DISTILLED, 3), (PRUNED, 4))
        ),
        *at_least("accuracy, after - before", accuracy, "pt", {DISTILLED: 0, PRUNED: 0, INT8: -0.05, BITS: 0}),
        *at_most("bytes, after / before", more_bytes, "x", {BITS: 1.1}),
    ]  # fmt: skip


def _change(row: Row, name: str) -> float | None:
    after, before = (_value(row["repair"], f"{name}_{when}") for when in ("after", "before"))
    return after / before if after is not None and before else None


def _value(trial: Mapping[str, Any], name: str) -> float | None:
    figure = trial.get(name)
    return None if figure is None else figure["value"]


def _percent(trial: Mapping[str, Any], name: str) -> float | None:
    value = _value(trial, name)
    return None if value is None else 100 * value


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean; None of nothing, and where a value is missing."""
    found = list(values)
    known = [value for value in found if value is not None]
    return fmean(known) if known and len(known) == len(found) else None


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _with_interval(rows: Sequence[Row], value: Value, digits: int) -> str:
    half = interval(rows, value)
    return _number(mean(rows, value), digits) + ("" if half is None else f" ± {half:.{digits}f}")
