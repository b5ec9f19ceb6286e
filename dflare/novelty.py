"""Which joint predictions a chain has already seen: the nearest-neighbour coverage of TensorFuzz, as DFLARE uses it."""

import torch
from torch import Tensor

from dflare.ragged import Ragged

THRESHOLD = 0.5
"""Squared Euclidean distance beyond which a pair of probability vectors is new (DFLARE, section 4.3)."""


def distance(seen: Ragged, states: Tensor) -> Tensor:
    """Squared Euclidean distance of each state (n, d) to the nearest in its own list, (n,); infinity for none."""
    apart = (seen.values - states[:, None]).square().sum(-1)
    unused = torch.arange(seen.values.shape[1], device=states.device) >= seen.count[:, None]
    return apart.masked_fill(unused, torch.inf).amin(-1)
