"""Counterexamples that uniform draws do not meet: multilevel splitting, which also estimates how rare they are."""

from dataclasses import dataclass

import torch
from torch import Tensor

from repair.properties.dense import Function
from repair.properties.property import Property
from repair.properties.walks import margins, walk

KEPT = 0.2
"""Share of the walkers that go on from level to level; the published 0.1 to 0.5 are all near the best."""

MOVES = 6
"""Moves of every walker on a level."""

LEVELS = 30
"""Levels after which a run is given up: with `KEPT` of the walkers each, a share of 1e-20."""

CROWDED = 0.9
"""A level which more walkers reach than this is a plateau, and the next one starts strictly above it."""


@dataclass(frozen=True)
class Rare:
    """What one splitting found: counterexamples (n, inputs), and their estimated share of the boxes, 0 for none."""

    inputs: Tensor
    share: float


def split(network: Function, wanted: Property, walkers: int, generator: torch.Generator) -> Rare:
    """Counterexamples by multilevel splitting on the violation margin.

    H. Kahn and T. Harris (1951), S.-K. Au and J. Beck, "Estimation of small failure probabilities in high dimensions
    by subset simulation" (Probabilistic Engineering Mechanics 16, 2001); S. Webb et al. (ICLR 2019) for networks. The
    walkers with the largest margins set a level; copies of them walk among the inputs that reach it, and so on until
    the level is 0. The share is the product of the levels' shares. One run is a rough estimate (a factor of two is
    usual), and a run may end on a peak that is no counterexample.
    """
    inputs = wanted.sample(walkers, generator)
    margin, share = margins(network, wanted, inputs), 1.0
    for _ in range(LEVELS):
        level = min(float(margin.topk(max(1, int(KEPT * walkers))).values[-1]), 0.0)
        reached = margin >= level
        if level < 0 and reached.double().mean() > CROWDED:
            reached = margin > level
            level = float(margin[reached].min()) if reached.any() else level
        share *= float(reached.double().mean())
        if level >= 0 and share > 0:
            return Rare(inputs[reached].unique(dim=0), share)
        if share == 0:
            break
        inputs = _copies(inputs[reached], walkers, generator)
        inputs = walk(network, wanted, inputs, MOVES, generator, level)
        margin = margins(network, wanted, inputs)
    return Rare(inputs[:0], 0.0)


def split_often(network: Function, wanted: Property, walkers: int, runs: int, generator: torch.Generator) -> Rare:
    """The counterexamples of several splittings and the mean of their shares.

    Runs that ended in another part of the region contribute in proportion to what they found it to be worth.
    """
    found = [split(network, wanted, walkers, generator) for _ in range(runs)]
    total = sum(one.share for one in found)
    if total == 0:
        return Rare(found[0].inputs[:0], 0.0)
    counts = [round(walkers * one.share / total) for one in found]
    drawn = [_copies(one.inputs, n, generator) for one, n in zip(found, counts, strict=True) if n and len(one.inputs)]
    return Rare(torch.cat(drawn), total / runs)


def _copies(inputs: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n draws with replacement, (n, inputs)."""
    return inputs[torch.randint(len(inputs), (n,), generator=generator)]
