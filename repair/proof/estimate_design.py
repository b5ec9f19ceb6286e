"""Whom to ask: strata by how sure the original is, and how many images of each are asked in two phases."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float64]
Counts = NDArray[np.int64]

STRATA = 8
"""At most; each is twice as large as the one before, so that the near ties, where deviations gather, stand alone."""

LEAST_IMAGES = 8
"""In the smallest stratum, about."""

PILOT = 0.25
"""Share of the queries that are asked before anything is known of the compressed model."""

PILOT_WEIGHT = 0.15
"""Weight of the pilot in the estimate. It is fixed beforehand, which is what keeps the estimate unbiased, and below
the pilot's share, because the second phase asks where it matters."""

TILT = 0.25
"""The pilot asks an image with a chance that goes with its rank to this power, negated: the original's least sure
images (rank 1 of 10,000) ten times as often as its surest."""

KEPT = 0.5
"""Share of the second phase that goes on as the pilot did, whatever that found: it bounds the weights."""


class Strata(NamedTuple):
    """Images in the order of the original's margin, least sure first, and where they are cut."""

    order: Counts  # (n,) indices of images
    edges: Counts  # (strata + 1,) from 0 to n

    @property
    def sizes(self) -> Counts:
        """Images in each stratum, (strata,)."""
        return np.diff(self.edges)

    @property
    def ranks(self) -> Numbers:
        """Middle rank of each stratum as a share of all images, (strata,) in (0, 1)."""
        return np.asarray((self.edges[:-1] + self.edges[1:]) / 2 / self.edges[-1])

    def totals(self, hits: ArrayLike) -> Counts:
        """Hits in each stratum, (strata,), of a mask (n,) over the images in their own order."""
        return np.add.reduceat(np.asarray(hits, dtype=np.int64)[self.order], self.edges[:-1])


def stratify(margins: ArrayLike) -> Strata:
    """Strata of n images by the original's margin (n,), its best score minus the second best; ties by index.

    The margin is what is known for nothing: any number will do for an unbiased estimate, a good one makes it precise.
    """
    values = np.asarray(margins, dtype=float)
    if values.ndim != 1 or not len(values) or np.isnan(values).any():
        raise ValueError(f"margins must be numbers (n,) of at least one image, got shape {values.shape}")
    n = len(values)
    count = int(min(STRATA, max(1, np.log2(n / LEAST_IMAGES) + 1)))
    edges = [0, *(round(n / 2**power) for power in range(count - 1, -1, -1))]
    return Strata(np.argsort(values, kind="stable"), np.array(edges))


def pilot(strata: Strata, queries: int) -> Counts:
    """How many images of each stratum are asked first, (strata,), of so many queries in all."""
    first = max(round(PILOT * queries), len(strata.sizes))
    return allocate(_tilted(strata)[None], strata.sizes[None], first)[0]


def second(strata: Strata, asked: Counts, rates: Numbers, queries: int) -> Counts:
    """How many further images of each stratum are asked, (r, strata), once `rates` (r, strata) in (0, 1) are thought.

    J. Neyman, On the two different aspects of the representative method, JRSS 97 (1934): in proportion to size times
    standard deviation; here for a share 1 - `KEPT` of them, and at least one wherever any are left.
    """
    left = strata.sizes - asked
    wanted = left * np.sqrt(rates * (1 - rates))
    wanted = (1 - KEPT) * wanted / wanted.sum(-1, keepdims=True) + KEPT * _tilted(strata)
    return allocate(wanted, np.broadcast_to(left, wanted.shape), queries - int(asked.sum()))


def allocate(wanted: Numbers, most: Counts, count: int) -> Counts:
    """`count` in whole numbers (r, strata) in proportion to `wanted` > 0, each in [min(1, most), most].

    Raises `ValueError` where that cannot be.
    """
    least = np.minimum(most, 1)
    if not (least.sum(-1) <= count).all() or not (count <= most.sum(-1)).all():
        raise ValueError(f"{count} queries must be at least one a stratum and at most the images that are left")
    low, high = np.zeros(len(wanted)), (most / wanted).max(-1) + 1
    for _ in range(60):
        middle = (low + high) / 2
        over = np.clip(middle[:, None] * wanted, least, most).sum(-1) > count
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    exact = np.clip(low[:, None] * wanted, least, most)
    whole = np.floor(exact + 1e-9).astype(np.int64)  # 1e-9: what rounding left just under a whole number
    open_places = np.where(whole < most, exact - whole, -1.0)
    rank = np.argsort(np.argsort(-open_places, axis=-1, kind="stable"), axis=-1)
    return whole + (rank < (count - whole.sum(-1))[:, None])


def _tilted(strata: Strata) -> Numbers:
    shares = strata.sizes * strata.ranks**-TILT
    return np.asarray(shares / shares.sum())
