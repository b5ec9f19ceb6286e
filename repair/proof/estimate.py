"""How often a pair deviates on images that nobody labelled, from a few hundred questions to the compressed model.

The original is the oracle: it is asked once about every image, and its margins (best score minus second best) say
beforehand where deviations gather. Counted are the questions to the compressed model.

* DeepEST: A. Guerriero, R. Pietrantuono, S. Russo, Operation is the hardest teacher, ICSE 2021: adaptive sampling with
  chances that go with a model's (lack of) confidence, and an unbiased estimate all the same.
* DAIC: A. Guerriero, R. Pietrantuono, S. Russo, Iterative assessment and improvement of DNN operational accuracy,
  ICSE-NIER 2023: the estimate is made again after each improvement.

Different from both: strata and two phases in place of one draw after the other, so that images are asked in batches
and the estimate's variance is known at any rate, which the intervals need.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repair.proof.estimate_comparison import simple_random_queries
from repair.proof.estimate_design import Counts, pilot, second, stratify
from repair.proof.estimate_intervals import Asked, modelled_interval, profile_interval, smooth_rates
from repair.proof.intervals import Figure

LEAST_QUERIES = 40
"""With fewer, some strata would be asked next to nothing."""

Question = Callable[[Counts], NDArray[np.bool_]]
"""Indices of images (k,) -> which of these deviate and which are mere ties, (k, 2)."""


@dataclass(frozen=True)
class Stratum:
    """What was asked of images that the original is about equally sure of."""

    images: int
    margin_low: float
    margin_high: float
    asked: int
    deviating: int


@dataclass(frozen=True)
class SimpleRandom:
    """Questions that a simple random sample of the same images would need; None where nothing was found."""

    same_width: int  # for a Wilson interval as wide as `rate`
    same_modelled_width: int  # as wide as `modelled`
    same_error: int | None  # for a standard error as small


@dataclass(frozen=True)
class Estimate:
    """A rate of deviation over all images given; rates in [0, 1], `n` of a figure is the questions asked."""

    rate: Figure  # unbiased; its interval assumes nothing
    modelled: Figure  # the same value, with the interval that trusts a smooth tail
    tied: Figure  # differing labels that are mere ties, as `rate`
    images: int
    asked: int
    deviating: int  # of those asked
    standard_error: float  # of the value, by the smooth model; 0 for a census
    simple_random: SimpleRandom
    strata: list[Stratum] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return asdict(self)


def estimate(margins: ArrayLike, question: Question, queries: int, seed: int = 0, confidence: float = 0.95) -> Estimate:
    """Estimate the rate of deviation over n images from `queries` of them; from all where `queries` is n or more.

    `margins` (n,): how sure the original is. The images of each stratum are asked in an order drawn from `seed`, so the
    same seed asks the same images first whatever is found; two calls of `question` at most. Raises `ValueError` for
    fewer than `LEAST_QUERIES` queries (and fewer than images), and for a confidence outside (0, 1).
    """
    strata = stratify(margins)
    n, z = len(strata.order), quantile(confidence)
    if queries < min(LEAST_QUERIES, n):
        raise ValueError(f"queries must be at least {LEAST_QUERIES}, or all of the {n} images, got {queries}")
    values, generator = np.asarray(margins, dtype=float), np.random.default_rng(seed)
    turns = [generator.permutation(part) for part in np.split(strata.order, strata.edges[1:-1])]
    if queries >= n:
        found = _ask(turns, strata.sizes * 0, strata.sizes, question)
        return _census(_rows(turns, values, strata.sizes, found[:, 0]), found.sum(0))
    first = pilot(strata, queries)
    early = _ask(turns, first * 0, first, question)
    rates = smooth_rates(strata.ranks, first[None], early[None, :, 0])
    more = second(strata, first, rates, queries)[0]
    late = _ask(turns, first, more, question)
    deviating, tied = (
        Asked(strata.sizes, strata.ranks, *(part[None] for part in (first, early[:, k], more, late[:, k])))
        for k in (0, 1)
    )
    return _estimated(deviating, tied, _rows(turns, values, first + more, deviating.hits[0]), z)


def quantile(confidence: float) -> float:
    """The standard normal quantile of a two-sided confidence in (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _ask(turns: list[Counts], start: Counts, count: Counts, question: Question) -> Counts:
    """Deviating and tied ones, (strata, 2), among the next `count` images of each stratum after `start`."""
    chosen = [turn[a : a + k] for turn, a, k in zip(turns, start, count, strict=True)]
    answers = np.asarray(question(np.concatenate(chosen)), dtype=np.int64)
    if answers.shape != (int(count.sum()), 2):
        raise ValueError(f"a question of {count.sum()} images must be answered by as many pairs, got {answers.shape}")
    return np.stack([part.sum(0) for part in np.split(answers, np.cumsum(count)[:-1])])


def _rows(turns: list[Counts], margins: NDArray[np.float64], asked: Counts, hits: Counts) -> list[Stratum]:
    return [
        Stratum(len(turn), float(margins[turn].min()), float(margins[turn].max()), int(a), int(x))
        for turn, a, x in zip(turns, asked, hits, strict=True)
    ]


def _estimated(deviating: Asked, tied: Asked, rows: list[Stratum], z: float) -> Estimate:
    n, queries = int(deviating.sizes.sum()), int(deviating.asked.sum())

    def figure(asked: Asked, interval: Callable[[Asked, float], Any]) -> Figure:
        low, high = interval(asked, z)
        return Figure(float(asked.estimate()[0]), float(low[0]), float(high[0]), queries)

    rate, modelled = figure(deviating, profile_interval), figure(deviating, modelled_interval)
    variance = float(deviating.variance(smooth_rates(deviating.ranks, deviating.asked, deviating.hits))[0])
    value, hits = float(deviating.estimate()[0]), int(deviating.hits.sum())
    wide, narrow = (
        simple_random_queries(value, float((one.high or 0) - (one.low or 0)), n, z) for one in (rate, modelled)
    )
    same_error = round(1 / (variance / (value * (1 - value)) + 1 / n)) if 0 < value < 1 else None
    needed = SimpleRandom(wide, narrow, same_error)
    return Estimate(
        rate, modelled, figure(tied, profile_interval), n, queries, hits, float(np.sqrt(variance)), needed, rows
    )


def _census(rows: list[Stratum], found: Counts) -> Estimate:
    n = sum(row.images for row in rows)
    rate, tied = (Figure(float(count / n), float(count / n), float(count / n), n) for count in found)
    return Estimate(rate, rate, tied, n, n, int(found[0]), 0.0, SimpleRandom(n, n, n), rows)
