"""Two intervals for a stratified two-phase estimate: one that assumes nothing, one that trusts a smooth tail.

Both invert a score test: a rate is in the interval when the estimate lies within z standard errors of it, the standard
error being the one that the estimate would have *at that rate*. They differ in how the rate is spread over the strata.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from repair.proof.estimate_design import PILOT_WEIGHT, Counts, Numbers

PRIOR_MEAN = np.array([-3.0, -1.0, 0.0])
"""Log-odds of deviating at the middle stratum, its slope over log(rank), and its bend; what stands without any data."""

PRIOR_DEVIATION = np.array([4.0, 3.0, 1.0])
"""Wide: log-odds of -3 +- 4 are rates from 0.1 to 73 %, a slope of -1 +- 3 allows for a rising one."""


class Asked(NamedTuple):
    """What was asked and found, (r, strata) each but `sizes`; r estimates side by side."""

    sizes: Counts  # (strata,)
    ranks: Numbers  # (strata,) in (0, 1)
    first: Counts  # images asked in the pilot
    first_hits: Counts
    second: Counts  # images asked afterwards
    second_hits: Counts

    @property
    def asked(self) -> Counts:
        """Images asked, (r, strata)."""
        return self.first + self.second

    @property
    def hits(self) -> Counts:
        """Those of them that deviate, (r, strata)."""
        return self.first_hits + self.second_hits

    def estimate(self) -> Numbers:
        """The rate, (r,): the weighted mean of two estimates, each unbiased whatever was seen before it.

        The second one adds what the pilot found to an estimate of what it left (D. Raj, Some estimators in sampling
        with varying probabilities without replacement, JASA 51 (1956); the form in DeepEST and in active testing).
        A single stratified mean of both phases would be biased, since what the pilot finds decides who is asked next.
        """
        left, n = self.sizes - self.first, self.sizes.sum()
        pilot = (self.sizes * self.first_hits / self.first).sum(-1)
        rest = (self.first_hits + left * self.second_hits / np.maximum(self.second, 1)).sum(-1)
        return np.asarray((PILOT_WEIGHT * pilot + (1 - PILOT_WEIGHT) * rest) / n)

    def variance(self, rates: Numbers) -> Numbers:
        """Of the estimate, (r,), where a share `rates` (r, strata) of the strata deviates."""
        left = self.sizes - self.first
        pilot = self.sizes**2 * (1 - self.first / self.sizes) / self.first
        rest = left**2 * (1 - self.second / np.maximum(left, 1)) / np.maximum(self.second, 1)
        factors = (PILOT_WEIGHT**2 * pilot + (1 - PILOT_WEIGHT) ** 2 * rest) / self.sizes.sum() ** 2
        return np.asarray((factors * rates * (1 - rates)).sum(-1))


Spread = Callable[[Numbers], Numbers]
"""A position (r,) -> the strata's rates (r, strata), which rise with it."""


def profile_interval(asked: Asked, z: float) -> tuple[Numbers, Numbers]:
    """Lower and upper ends (r,) each, with no assumption on the images that were not asked.

    For a total rate the strata's rates are the likeliest ones that add up to it, so an upper end puts what is unseen
    where fewest were asked (the profile likelihood; the score interval of Miettinen and Nurminen, Statistics in
    Medicine 4 (1985), for strata). Without a single hit it is as wide as the rule of three says.
    """
    weights, n, x = asked.sizes / asked.sizes.sum(), asked.asked.astype(float), asked.hits
    scale = weights * n.sum(-1, keepdims=True)

    def higher(position: Numbers) -> Numbers:  # the positive root of s p^2 + (n - s) p - x = 0
        s = np.exp(position)[:, None] * scale
        return np.asarray((s - n + np.sqrt((n - s) ** 2 + 4 * s * x)) / (2 * s))

    def lower(position: Numbers) -> Numbers:  # the smaller root of s p^2 - (n + s) p + x = 0
        s = np.exp(-position)[:, None] * scale
        return np.asarray((n + s - np.sqrt((n + s) ** 2 - 4 * s * x)) / (2 * s))

    return _ends(asked, lower, higher, z)


def modelled_interval(asked: Asked, z: float) -> tuple[Numbers, Numbers]:
    """Lower and upper ends (r,) each, trusting that deviations thin out smoothly as the original grows surer.

    For a total rate the strata's rates are those of `smooth_rates` with all log-odds moved alike. Where deviations
    come in two kinds, near ties and a few anywhere, it is too narrow: its promise holds for the model only.
    """
    rates = smooth_rates(asked.ranks, asked.asked, asked.hits)
    odds = np.log(rates / (1 - rates))

    def moved(position: Numbers) -> Numbers:
        return _logistic(odds + position[:, None])

    return _ends(asked, moved, moved, z)


def smooth_rates(ranks: Numbers, asked: Counts, hits: Counts) -> Numbers:
    """Rates (r, strata) in (0, 1) of a logistic regression on log(rank) and rank, with wide normal priors.

    The posterior's mode, found by Newton's method.
    """
    slope, bend = np.log(ranks) - np.log(ranks).mean(), ranks - ranks.mean()
    columns = np.stack([np.ones_like(ranks), slope, bend / max(float(bend.std()), 1e-9)], axis=-1)
    penalty = np.diag(PRIOR_DEVIATION**-2.0)
    chosen = np.tile(PRIOR_MEAN, (len(hits), 1))
    for _ in range(30):  # steps of at most 2; the prior is within 20 of any answer
        rates = _logistic(chosen @ columns.T)
        gradient = (hits - asked * rates) @ columns - (chosen - PRIOR_MEAN) @ penalty
        curvature = np.einsum("rs,si,sj->rij", asked * rates * (1 - rates), columns, columns) + penalty
        chosen = chosen + np.clip(np.linalg.solve(curvature, gradient[..., None])[..., 0], -2, 2)
    return _logistic(chosen @ columns.T)


def _ends(asked: Asked, lower: Spread, higher: Spread, z: float) -> tuple[Numbers, Numbers]:
    """Where the estimate is z standard errors off, within what the images asked leave possible."""
    value, n = asked.estimate(), asked.sizes.sum()
    hits, known = asked.hits.sum(-1), asked.asked.sum(-1)
    low = np.minimum(np.maximum(_end(asked, lower, value, -z), hits / n), value)
    high = np.maximum(np.minimum(_end(asked, higher, value, z), 1 - (known - hits) / n), value)
    return low, high


def _end(asked: Asked, spread: Spread, value: Numbers, z: float) -> Numbers:
    least, most = asked.hits / asked.sizes, 1 - (asked.asked - asked.hits) / asked.sizes
    low, high = np.full(len(value), -30.0), np.full(len(value), 30.0)
    rate = value
    for _ in range(50):  # to 1e-13 of a log-odds
        middle = (low + high) / 2
        rates = np.clip(spread(middle), least, most)
        rate = rates @ asked.sizes / asked.sizes.sum()
        over = rate - value > z * np.sqrt(asked.variance(rates))
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    return np.asarray(rate)


def _logistic(odds: Numbers) -> Numbers:
    return np.asarray(1 / (1 + np.exp(-np.clip(odds, -30, 30))))
