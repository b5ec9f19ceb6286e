"""Which mutation to try next: a Markov chain over mutations ranked by how often they helped (DFLARE, section 4.2)."""

from collections.abc import Callable

import torch
from torch import Tensor

from dflare.random import Draws, Purpose

Selection = Callable[[Tensor, Tensor, Draws], Tensor]
"""(last mutation (n,), scores (n, mutations), draws) -> next mutation (n,) int64"""


def ranks(scores: Tensor, draws: Draws) -> Tensor:
    """Rank of each mutation in its chain, 0 for the best, ties broken at random, (n, mutations) int64."""
    shuffled = draws.purpose(Purpose.TIES).uniform(scores.shape[-1]).argsort(dim=-1, stable=True)
    order = shuffled.gather(-1, scores.gather(-1, shuffled).argsort(dim=-1, descending=True, stable=True))
    return order.argsort(dim=-1, stable=True)


def acceptance(last: Tensor, ranks: Tensor) -> Tensor:
    """min(1, (1 - p)^(rank - rank of last)) with p = 1 / mutations, float64 (n, mutations) (DFLARE, equation 2)."""
    mutations = ranks.shape[-1]
    decay = [min(1.0, (1 - 1 / mutations) ** step) for step in range(1 - mutations, mutations)]
    table = torch.tensor(decay, dtype=torch.float64, device=ranks.device)
    return table[ranks - ranks.gather(-1, last[:, None]) + mutations - 1]


def retry(last: Tensor, scores: Tensor, draws: Draws) -> Tensor:
    """Propose uniformly until accepted, as published; in closed form one draw with the `acceptance` as weights.

    The published text calls this Metropolis-Hastings; a step of that algorithm would stay on rejection (`metropolis`).
    """
    return _weighted(acceptance(last, ranks(scores, draws)), draws)


def forgetful(last: Tensor, scores: Tensor, draws: Draws) -> Tensor:
    """`retry` as the authors' code runs it: the last mutation's rank is never found, so it counts as -1.

    The weights are (1 - p)^(rank + 1) whatever was tried last. While nothing has helped yet all ranks are ties, and
    the draw is uniform, as theirs is before the first acceptance.
    """
    p = 1 / scores.shape[-1]
    return _weighted((1 - p) ** ranks(scores, draws).double(), draws)  # the factor 1 - p common to all cancels


def _weighted(weights: Tensor, draws: Draws) -> Tensor:
    """One of the columns, drawn with weights (n, mutations)."""
    cumulated = weights.cumsum(-1)
    dice = draws.purpose(Purpose.ACCEPTANCE).uniform(1) * cumulated[:, -1:]
    return (cumulated <= dice).sum(-1)


def metropolis(last: Tensor, scores: Tensor, draws: Draws) -> Tensor:
    """One Metropolis step: a rejected proposal keeps the last mutation, so ranks are visited geometrically."""
    proposal = draws.purpose(Purpose.PROPOSAL).integers(scores.shape[-1])
    accept = acceptance(last, ranks(scores, draws)).gather(-1, proposal[:, None]).squeeze(-1)
    return torch.where(draws.purpose(Purpose.ACCEPTANCE).uniform() < accept, proposal, last)


def uniform(last: Tensor, scores: Tensor, draws: Draws) -> Tensor:
    """Ignore the past (ablation)."""
    return draws.purpose(Purpose.PROPOSAL).integers(scores.shape[-1])
