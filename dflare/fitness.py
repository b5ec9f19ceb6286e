"""How good a candidate is, and whether it replaces the current image."""

from collections.abc import Callable

import torch
from torch import Tensor

from dflare.classifiers import Outputs

Fitness = Callable[[Outputs, Tensor], Tensor]
"""(outputs, whether the pair of probability vectors is new to the chain (n,) bool) -> fitness (n,), more is better"""

Acceptance = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(fitness of the candidate (n,), the bar (n,), whether the candidate is new (n,) bool) -> (n,) bool"""

CHANGE = 1e-3
"""By how much the difference of probabilities must change for the authors' code to go on from a candidate."""


def divergence_and_novelty(outputs: Outputs, novel: Tensor) -> Tensor:
    """Difference of the top-1 probabilities, plus 1 for a new pair of probability vectors (DFLARE, section 4.3)."""
    return outputs.divergence + novel


def divergence(outputs: Outputs, novel: Tensor) -> Tensor:
    """Difference of the top-1 probabilities alone (the paper's ablation)."""
    return outputs.divergence


def nothing(outputs: Outputs, novel: Tensor) -> Tensor:
    """0: where the bar of the authors' code starts, whatever the seed's own fitness is."""
    return torch.zeros_like(outputs.divergence)


def closeness(outputs: Outputs, novel: Tensor) -> Tensor:
    """Minus the smaller of the two models' score margins: deviations live where a margin is small."""
    return -outputs.score_margin


def not_worse(candidate: Tensor, bar: Tensor, novel: Tensor) -> Tensor:
    """Accept when the fitness does not fall, as published; a bonus once earned stays in the bar."""
    return candidate >= bar


def changed(candidate: Tensor, bar: Tensor, novel: Tensor) -> Tensor:
    """Accept what is new or moved by more than `CHANGE` in either direction: the authors' code."""
    return novel | ((candidate - bar).abs() > CHANGE)


def always(candidate: Tensor, bar: Tensor, novel: Tensor) -> Tensor:
    """Accept everything: a random walk."""
    return torch.ones_like(candidate, dtype=torch.bool)
