"""The evidence of a repair: what broke, what was fixed, how hard the search has become. One place to import from."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repair.proof.bootstrap import difference_of_means, mean, quantile, ratio_of_means
from repair.proof.intervals import (
    NOTHING,
    Figure,
    Groups,
    Mask,
    difference,
    effective_size,
    paired_difference,
    rate,
    share,
)
from repair.proof.verdict import beats_placebo

__all__ = [
    "NOTHING",
    "Figure",
    "PairedRates",
    "beats_placebo",
    "difference",
    "difference_of_means",
    "mcnemar",
    "mean",
    "paired_rates",
    "plain",
    "quantile",
    "queries_summary",
    "rate",
    "ratio_of_means",
    "restricted_queries",
    "share",
]


class PairedRates(NamedTuple):
    """What changed between two judgements of the same n images, as shares of all n."""

    broken: Figure  # agreed before, deviates now: the drawdown when the images are the clean judge images
    fixed: Figure  # deviated before, agrees now
    net: Figure  # fixed - broken, in [-1, 1]
    mcnemar_p: float  # probability of so uneven a split of the changes by chance, in [0, 1]


def paired_rates(agreed_before: Mask, agrees_after: Mask, groups: Groups | None = None) -> PairedRates:
    """Broken, fixed and net of n images judged twice, (n,) bool each: did the pair agree?

    Without `groups`, images are independent (one per seed): Wilson, Tango's paired score interval, exact McNemar.
    With `groups` (n,), the seed each image was made from, all four allow for images of one seed being alike:
    effective sizes, and for p the clustered McNemar test of V. L. Durkalski et al., Statistics in Medicine 22 (2003),
    chi^2 = (sum of d)^2 / (sum of d^2) over the seeds' net changes d.
    """
    before, after = np.asarray(agreed_before, dtype=bool), np.asarray(agrees_after, dtype=bool)
    if before.shape != after.shape or before.ndim != 1:
        raise ValueError(f"both judgements must be (n,) of the same images, got {before.shape} and {after.shape}")
    broken, fixed = before & ~after, after & ~before
    changes = fixed.astype(float) - broken
    if not len(before):
        return PairedRates(NOTHING, NOTHING, NOTHING, 1.0)
    effective = effective_size(changes, groups)
    scale = effective / len(before)
    low, high = paired_difference(int(fixed.sum()) * scale, int(broken.sum()) * scale, effective)
    net = Figure(float(changes.mean()), low, high, len(before))
    p = mcnemar(int(broken.sum()), int(fixed.sum())) if groups is None else _clustered_mcnemar(changes, groups)
    return PairedRates(share(broken, groups), share(fixed, groups), net, p)


def mcnemar(broken: int, fixed: int) -> float:
    """Exact two-sided p of McNemar's test (1947): a fair coin would split the changed images at least so unevenly.

    Computed in integers, so it is right for any count; 1 where nothing changed.
    """
    if broken < 0 or fixed < 0:
        raise ValueError(f"counts must not be negative, got {broken} broken and {fixed} fixed")
    changed, term, total = broken + fixed, 1, 0
    for k in range(min(broken, fixed) + 1):
        total += term
        term = term * (changed - k) // (k + 1)
    return min(1.0, 2 * total / 2**changed) if 2 * total < 2**changed else 1.0


def restricted_queries(queries: ArrayLike, found: Mask, budget: int) -> NDArray[np.float64]:
    """Queries of each chain (n,), with the budget in place of those that found nothing: for restricted means."""
    numbers, mask = np.asarray(queries, dtype=float), np.asarray(found, dtype=bool)
    if numbers.shape != mask.shape or numbers.ndim != 1:
        raise ValueError(f"queries and found must be (n,) of the same chains, got {numbers.shape} and {mask.shape}")
    return np.where(mask, np.minimum(numbers, budget), budget)


def queries_summary(queries: ArrayLike, found: Mask, budget: int, seed: int) -> dict[str, Any]:
    """`{"mean", "median", "p95"}` Figures of queries per trigger over n chains, and `"censored"`, how many found none.

    An unfound chain counts as the budget in the mean (restricted mean); a quantile beyond the found share is null.
    """
    numbers, unfound = restricted_queries(queries, found, budget), ~np.asarray(found, dtype=bool)
    return {
        "mean": mean(numbers, seed),
        "median": quantile(numbers, 0.5, unfound, seed),
        "p95": quantile(numbers, 0.95, unfound, seed),
        "censored": int(unfound.sum()),
    }


def plain(value: Any) -> Any:
    """`value` with every Figure, numpy number and tuple inside it as what JSON knows; NaN and infinity become null."""
    if isinstance(value, Figure):
        return plain(value.as_dict())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _clustered_mcnemar(changes: NDArray[np.float64], groups: Groups) -> float:
    index = np.unique(np.asarray(groups), return_inverse=True)[1]
    totals = np.bincount(index, weights=changes)
    spread = float(totals @ totals)
    # chi^2 with one degree of freedom is a squared standard normal: its upper tail is erfc(sqrt(chi^2 / 2))
    return math.erfc(math.sqrt(float(totals.sum()) ** 2 / spread / 2)) if spread else 1.0
