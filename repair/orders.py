"""In which order a training sees its images: endless, and at every place a function of the seed and the place alone."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from dflare.classifiers import Outputs

MOST = 4
"""How many times as often as in an unbalanced order a balanced one shows an image, at most."""


class Order(Protocol):
    """Which of n items stand at places start … start + count - 1, (count,) int64."""

    def __call__(self, start: int, count: int) -> Tensor: ...


class Balance(Protocol):
    """The groups (n,) int64 of n triggers that are to weigh the same.

    By what both models said of them, `outputs`, and what the original sees in them: `features` makes that, (n, f), and
    is called only where it is needed.
    """

    def __call__(self, outputs: Outputs, features: Callable[[], Tensor] | None = None) -> Tensor: ...


class Shuffled:
    """Endless passes over n items, each in an order that depends on (seed, pass) alone."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed = n, seed
        self._orders: dict[int, Tensor] = {}

    def __call__(self, start: int, count: int) -> Tensor:
        places = torch.arange(start, start + count)
        items = torch.empty(count, dtype=torch.int64)
        for number in places.div(self.n, rounding_mode="floor").unique().tolist():
            here = places.div(self.n, rounding_mode="floor") == number
            items[here] = self._order(number)[places[here] % self.n]
        return items

    def _order(self, number: int) -> Tensor:
        if number not in self._orders:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + number) % 2**63)
            self._orders = {number: torch.randperm(self.n, generator=generator)}
        return self._orders[number]


class Balanced:
    """One item of every group in turn, (n,) int64; each group is shuffled anew for each of its own passes.

    Every group fills the same share of the places, however large it is. The smallest groups are put together until no
    item comes more than `MOST` times as often as if all were drawn alike: a pair of labels seen once is no law.
    """

    def __init__(self, groups: Tensor, seed: int) -> None:
        self.members = _merged([torch.nonzero(groups == group).flatten() for group in groups.unique()])
        self._orders = [Shuffled(len(rows), seed + (k + 1) * 2**40) for k, rows in enumerate(self.members)]

    def __call__(self, start: int, count: int) -> Tensor:
        turns = len(self.members)
        places = torch.arange(start, start + count)
        items = torch.empty(count, dtype=torch.int64)
        for k, (rows, order) in enumerate(zip(self.members, self._orders, strict=True)):
            here = places % turns == k
            numbers = places[here] // turns
            if len(numbers):
                items[here] = rows[order(int(numbers[0]), len(numbers))]
        return items


def label_pairs(outputs: Outputs, features: Callable[[], Tensor] | None = None) -> Tensor:
    """A number for each (original's label, compressed label) among n images, (n,) int64 counted from 0."""
    original, compressed = outputs.labels
    return (original * outputs.original.shape[-1] + compressed).unique(return_inverse=True)[1]


def kinds(outputs: Outputs, features: Callable[[], Tensor] | None = None) -> Tensor:
    """The cluster of each of n images by its features, (n,) int64 counted from 0; those in no cluster are the last.

    Without `features` by the original's log-probabilities. See `repair.clusters`.
    """
    from repair.clusters import find_clusters
    from repair.features import log_probabilities

    seen = log_probabilities(outputs.original.softmax(-1)) if features is None else features()
    return find_clusters(seen).groups


def _merged(members: list[Tensor]) -> list[Tensor]:
    """The groups with the two smallest put together until every one holds 1 / (`MOST` * groups) of all items."""
    total, members = sum(len(rows) for rows in members), list(members)
    while len(members) > 1:
        members.sort(key=len)  # stable, so that equal ones keep their order
        if MOST * len(members) * len(members[0]) >= total:
            break
        members = [torch.cat(members[:2]), *members[2:]]
    return members
