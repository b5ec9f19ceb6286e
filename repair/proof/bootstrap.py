"""Bootstrap intervals for queries, distances and milliseconds: 2,000 resamples, percentile method, explicit seed.

B. Efron, Bootstrap methods: another look at the jackknife, Annals of Statistics 7 (1979).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repair.proof.intervals import CONFIDENCE, NOTHING, Figure, Mask

RESAMPLES = 2000
"""Resamples a figure, which leaves an error of the interval's ends of about 3 % of its length."""

CHUNK = 4_000_000
"""Numbers held at once while resampling, 32 MB."""

Values = NDArray[np.float64]


def mean(values: ArrayLike, seed: int) -> Figure:
    """Mean of `values` (n,) with its bootstrap interval; fewer than 2 values have no interval."""
    return _figure(lambda rows: rows[0].mean(-1), [values], seed)


def difference_of_means(after: ArrayLike, before: ArrayLike, seed: int) -> Figure:
    """mean(after) - mean(before) of paired values (n,) each: a resample takes both numbers of a seed together."""
    return _figure(lambda rows: rows[0].mean(-1) - rows[1].mean(-1), [after, before], seed)


def ratio_of_means(after: ArrayLike, before: ArrayLike, seed: int) -> Figure:
    """mean(after) / mean(before) of paired values (n,) each, non-negative; no value where mean(before) is 0.

    The "queries after / before" of a report: both from the same seeds, unfound at the budget. Identical arrays give
    exactly 1 with the interval [1, 1].
    """

    def ratio(rows: Sequence[Values]) -> Values:
        top, bottom = rows[0].sum(-1), rows[1].sum(-1)
        return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), np.inf)

    return _figure(ratio, [after, before], seed)


def quantile(values: ArrayLike, q: float, censored: Mask, seed: int) -> Figure:
    """Smallest of `values` (n,) that at least a share q in (0, 1] of all values does not exceed.

    `censored` (n,) marks values of which only a lower bound is known (a search that hit its budget). A quantile that
    falls among them is null; an upper end of the interval that falls among them is null and means "open".
    The inverse of the Kaplan-Meier estimate for a common censoring time, so no interpolation between two queries.
    """
    if not 0 < q <= 1:
        raise ValueError(f"q must lie in (0, 1], got {q}")
    known = np.where(np.asarray(censored, dtype=bool), np.inf, np.asarray(values, dtype=float))
    place = max(math.ceil(q * len(known) - 1e-9) - 1, 0)  # 1e-9: 0.95 * 20 is 19 and not a hair more
    return _figure(lambda rows: np.partition(rows[0], place, axis=-1)[..., place], [known], seed)


def _figure(statistic: Callable[[Sequence[Values]], Values], columns: Sequence[ArrayLike], seed: int) -> Figure:
    """The statistic of the columns (n,) each and its percentile interval; columns are resampled together."""
    arrays = [np.asarray(column, dtype=float) for column in columns]
    n = len(arrays[0])
    if any(array.shape != (n,) for array in arrays):
        raise ValueError(f"paired values must have one shape (n,), got {[array.shape for array in arrays]}")
    if any(np.isnan(array).any() for array in arrays):
        raise ValueError("values must be numbers, got NaN")
    if not n:
        return NOTHING
    value = _known(statistic(arrays))
    if value is None or n < 2:
        return Figure(value, None, None, n)
    low, high = np.quantile(
        _resampled(statistic, arrays, seed), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], method="inverted_cdf"
    )
    return Figure(value, _known(low), _known(high), n)


def _resampled(statistic: Callable[[Sequence[Values]], Values], arrays: Sequence[Values], seed: int) -> Values:
    """The statistic on each of `RESAMPLES` resamples, (RESAMPLES,)."""
    generator = np.random.default_rng(seed)
    n = len(arrays[0])
    rows = max(1, CHUNK // n)
    parts = []
    for start in range(0, RESAMPLES, rows):
        index = generator.integers(n, size=(min(rows, RESAMPLES - start), n))
        parts.append(statistic([array[index] for array in arrays]))
    return np.concatenate(parts)


def _known(number: Values | float) -> float | None:
    """A finite number as a plain float, infinity (beyond the budget, a division by 0) as None."""
    return float(number) if np.isfinite(number) else None
