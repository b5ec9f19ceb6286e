"""How good a candidate is, and whether it replaces the current image."""

from collections.abc import Callable

import torch
from torch import Tensor

from dflare.classifiers import Outputs

Fitness = Callable[[Outputs, Tensor], Tensor]
"""(outputs, whether the pair of probability vectors is new to the chain (n,) bool) -> fitness (n,), more is better"""

Acceptance = Callable[[Tensor, Tensor], Tensor]
"""(fitness of the candidate (n,), fitness of the current image (n,)) -> (n,) bool"""


def divergence_and_novelty(outputs: Outputs, novel: Tensor) -> Tensor:
    """Difference of the top-1 probabilities, plus 1 for a new pair of probability vectors (DFLARE, section 4.3)."""
    return outputs.divergence + novel


def divergence(outputs: Outputs, novel: Tensor) -> Tensor:
    """Difference of the top-1 probabilities alone (the paper's ablation)."""
    return outputs.divergence


def not_worse(candidate: Tensor, current: Tensor) -> Tensor:
    """Accept when the fitness does not fall, as published; a bonus once earned stays in the bar."""
    return candidate >= current


def always(candidate: Tensor, current: Tensor) -> Tensor:
    """Accept everything: a random walk."""
    return torch.ones_like(candidate, dtype=torch.bool)
