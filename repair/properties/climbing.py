"""Counterexamples by gradient ascent on the violation margin, where a claim has a graph with gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from repair.properties.dense import Function
from repair.properties.property import Box, Polytope

STEPS = 40
FIRST, LAST = 0.25, 1e-3
"""The first and the last step, as shares of the box's sides; the steps between shrink geometrically."""


def climb(network: Function, box: Box, unsafe: Sequence[Polytope], starts: Tensor) -> tuple[Tensor, Tensor]:
    """The deepest input met on every path from `starts` (n, inputs) of a box, and its violation margin (n,).

    Projected sign steps (A. Madry et al., ICLR 2018), each side of the box its own unit; of several polytopes a path
    climbs into the one that is nearest where it is. Margins are those of `Property.margin`: >= 0 is a violation.
    """
    low, high = box.bounds(starts.dtype)
    inputs, best, found = starts, starts, torch.full((len(starts),), -torch.inf, dtype=starts.dtype)
    for step in range(STEPS + 1):
        moving = inputs.detach().requires_grad_()
        outputs = network(moving)
        margin = torch.stack([polytope.depth(outputs) for polytope in unsafe]).amax(0)
        better = (margin > found).detach()
        best, found = torch.where(better[:, None], inputs, best), torch.where(better, margin.detach(), found)
        if step == STEPS:
            break
        (slope,) = torch.autograd.grad(margin.sum(), moving)
        size = FIRST * (LAST / FIRST) ** (step / (STEPS - 1))
        inputs = (inputs + size * (high - low) * slope.sign()).clamp(low, high)
    return best, found
