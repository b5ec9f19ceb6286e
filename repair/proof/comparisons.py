"""Figures of repeated runs compared: means with intervals, rank tests, effect sizes, and many tests at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from repair.proof.intervals import CONFIDENCE, NOTHING, Figure

EFFECTS = ((0.71, "large"), (0.64, "medium"), (0.56, "small"))
"""From where on an A12 is called so (A. Vargha and H. D. Delaney, 2000), also mirrored at one half."""


def mean_of_runs(values: Sequence[float]) -> Figure:
    """The mean of n runs with Student's t interval; for one run no ends, for none nothing.

    It is an interval for runs with other seeds on the same models and images, not for other models.
    """
    if not values:
        return NOTHING
    mean, n = float(np.mean(values)), len(values)
    if n == 1:
        return Figure(mean, None, None, 1)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return Figure(mean, mean - half, mean + half, n)


def a12(some: Sequence[float], others: Sequence[float]) -> float:
    """The probability that a run of `some` has the greater number than one of `others`, ties counted half.

    A. Vargha and H. D. Delaney, A critique and improvement of the CL common language effect size statistics of McGraw
    and Wong, Journal of Educational and Behavioral Statistics 25 (2000). 0.5: no difference. Raises `ValueError`
    without numbers on both sides.
    """
    if not len(some) or not len(others):
        raise ValueError(f"A12 needs runs on both sides, got {len(some)} and {len(others)}")
    first, second = np.asarray(some, float)[:, None], np.asarray(others, float)[None, :]
    return float(((first > second) + 0.5 * (first == second)).mean())


def effect(a: float) -> str:
    """An A12 in a word: negligible, small, medium or large."""
    distance = 0.5 + abs(a - 0.5)
    return next((word for least, word in EFFECTS if distance >= least), "negligible")


def mann_whitney(some: Sequence[float], others: Sequence[float]) -> float:
    """Two-sided p of the Mann-Whitney U test: exact for small samples without ties, else with the normal approximation.

    H. B. Mann and D. R. Whitney, Annals of Mathematical Statistics 18 (1947). Samples of n and m runs cannot reach a p
    below 2 / C(n + m, n): see `least_p`. Raises `ValueError` without numbers on both sides.
    """
    if not len(some) or not len(others):
        raise ValueError(f"the U test needs runs on both sides, got {len(some)} and {len(others)}")
    if len({*some, *others}) == 1:
        return 1.0  # all the same: nothing speaks for a difference
    return float(stats.mannwhitneyu(some, others, alternative="two-sided").pvalue)


def least_p(n: int, m: int) -> float:
    """The smallest two-sided p that an exact U test of n against m runs can give."""
    return min(1.0, 2 / math.comb(n + m, n))


def holm(ps: Sequence[float]) -> list[float]:
    """p values of several tests made larger so that their family-wise error holds, in the order that came.

    S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6 (1979).
    """
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    adjusted, running = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = running
    return adjusted


@dataclass(frozen=True)
class Comparison:
    """A figure of one arm against that of another."""

    a12: float  # probability that the first arm's run has the greater number
    p: float  # Mann-Whitney, two-sided
    adjusted: float  # Holm, over all comparisons of this figure

    @property
    def words(self) -> str:
        """How large the difference is."""
        return effect(self.a12)


def compare_all(runs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> list[Comparison | None]:
    """Each pair of samples compared, their p values adjusted together; None where a side has no run."""
    there = [i for i, (some, others) in enumerate(runs) if len(some) and len(others)]
    ps = [mann_whitney(*runs[i]) for i in there]
    found: list[Comparison | None] = [None] * len(runs)
    for i, p, adjusted in zip(there, ps, holm(ps), strict=True):
        found[i] = Comparison(a12(*runs[i]), p, adjusted)
    return found
