"""Figures with confidence intervals in closed form: rates, paired rates, and the difference of two figures."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
"""Two-sided confidence of every interval that is reported."""

Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
"""Standard normal quantile that goes with `CONFIDENCE`, 1.96."""

Mask = NDArray[np.bool_]
Groups = NDArray[np.int64]


@dataclass(frozen=True)
class Figure:
    """One number of a report: value, 95 % interval [low, high] and n, how many observations it stands on.

    Null (None) says "not known": a rate of nothing, a quantile beyond the budget, an open end of an interval.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int

    def as_dict(self) -> dict[str, float | int | None]:
        """`{"value", "low", "high", "n"}` in plain Python numbers, for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, figure: "Figure | Mapping[str, Any] | None") -> "Figure":
        """The figure itself, from its dictionary, or the figure of nothing for None."""
        if isinstance(figure, Figure):
            return figure
        return cls(**{key: figure[key] for key in ("value", "low", "high", "n")}) if figure else NOTHING


NOTHING = Figure(None, None, None, 0)
"""The figure of no observations."""


def rate(hits: float, n: float) -> Figure:
    """Share of hits among n with its Wilson score interval; n = 0 has no value.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    It keeps its promise near 0 and 1, where value +- 1.96 standard errors does not.
    """
    if not 0 <= hits <= n:
        raise ValueError(f"hits must lie in 0..{n}, the number of observations, got {hits}")
    return _wilson(hits / n, n, int(n)) if n else NOTHING


def share(mask: Mask, groups: Groups | None = None) -> Figure:
    """Share of true entries of `mask` (n,) with its Wilson interval.

    `groups` (n,) names the seed image each entry was made from. Images of one seed resemble each other, so the
    interval is then the one of the effective number of observations, n / design effect (L. Kish, Survey Sampling,
    1965); `n` stays the number of images.
    """
    mask = np.asarray(mask, dtype=bool)
    if not len(mask):
        return NOTHING
    return _wilson(float(mask.mean()), effective_size(mask.astype(float), groups), len(mask))


def effective_size(values: NDArray[np.float64], groups: Groups | None) -> float:
    """How many independent observations the mean of `values` (n,) is worth, in 1..n.

    The variance of the mean is taken between groups (the usual linearised cluster variance). Values that do not vary
    hold no evidence of a design effect and count as n; a single group counts as 1.
    """
    n = len(values)
    residuals = values - values.mean() if n else values
    within = float(residuals @ residuals)
    if groups is None or within == 0:
        return float(n)
    index = np.unique(np.asarray(groups), return_inverse=True)[1]
    totals = np.bincount(index, weights=residuals, minlength=1)
    if len(totals) < 2:
        return 1.0
    between = len(totals) / (len(totals) - 1) * float(totals @ totals)
    return n / max(1.0, between / within)


def difference(after: Figure, before: Figure) -> Figure:
    """after - before of two independent figures, from their values and intervals alone.

    "Square and add": for two Wilson intervals this is method 10 of R. G. Newcombe, Interval estimation for the
    difference between independent proportions, Statistics in Medicine 17 (1998); for others the method of variance
    estimates recovery of Zou and Donner (2008). For two figures measured on the same images, which rise and fall
    together, it is wider than need be: conservative. n is the smaller of the two.
    """
    if any(end is None for end in (after.value, after.low, after.high, before.value, before.low, before.high)):
        return NOTHING
    a, a_low, a_high = float(after.value or 0), float(after.low or 0), float(after.high or 0)
    b, b_low, b_high = float(before.value or 0), float(before.low or 0), float(before.high or 0)
    low = a - b - math.hypot(a - a_low, b_high - b)
    high = a - b + math.hypot(a_high - a, b - b_low)
    return Figure(a - b, low, high, min(after.n, before.n))


def paired_difference(gained: float, lost: float, n: float) -> tuple[float, float]:
    """95 % interval of (gained - lost) / n, the difference of two rates measured on the same n observations.

    T. Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design, Statistics in Medicine 17 (1998): the score interval. It excludes 0 exactly when McNemar's
    (gained - lost)^2 / (gained + lost) exceeds 1.96^2, and is [-h, h] with h = z^2 / (n + z^2) when nothing changed.
    """

    def excess(delta: float, side: float) -> float:
        """Falls through 0 where the score statistic at `delta` equals side * Z."""
        a, b = 2 * n, -gained - lost + (2 * n - gained + lost) * delta
        c = -lost * delta * (1 - delta)
        nuisance = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        return gained - lost - n * delta - side * Z * math.sqrt(max(n * (2 * nuisance + delta * (1 - delta)), 0.0))

    value = (gained - lost) / n
    return _root(lambda x: excess(x, 1), -1.0, value), _root(lambda x: excess(x, -1), value, 1.0)


def _wilson(value: float, effective: float, n: int) -> Figure:
    centre = value + Z * Z / (2 * effective)
    half = Z * math.sqrt(value * (1 - value) / effective + Z * Z / (4 * effective**2))
    scale = 1 + Z * Z / effective
    # at 0 and at 1 an end is known exactly; rounding must not move it past the value
    low = 0.0 if value == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if value == 1 else min(1.0, (centre + half) / scale)
    return Figure(value, low, high, n)


def _root(falling: Any, low: float, high: float) -> float:
    """Where a falling function crosses 0 between low and high, by 60 halvings (to 2^-59)."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2
