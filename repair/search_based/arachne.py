"""Arachne: the weights on the Pareto front are given other values by differential evolution.

J. Sohn, S. Kang and S. Yoo, "Arachne: Search-based repair of deep neural networks" (TOSEM 32(4), 2023).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from repair.locating.pareto import fronts, impacts
from repair.locating.watched import Watched
from repair.search_based.sample import Sample, Search, searched
from repair.search_based.single_weights import Place, SingleWeights, can_move
from repair.search_based.swarm import Best, Cost, Evolution, evolving
from repair.trainable import Trainable

FIXED = 10.0
"""What a negative that is fixed counts against a positive that is kept: Arachne's alpha."""

LEAST = 20
"""Weights to move at least: further fronts are peeled off until there are so many, as a first one may hold but one."""

MOST = 200
"""Weights to move at most, the first of the front: a search over more dimensions does not converge in 100 steps."""

BOUND = 10.0
"""Standard deviations of its tensor by which a weight may move; Arachne has no bound, a grid of integers has."""


def arachne(
    trainable: Trainable,
    sample: Sample,
    iterations: int,
    generator: torch.Generator,
    places: Sequence[Place] | None = None,
    settings: Evolution = Evolution(),  # noqa: B008 (frozen)
) -> Search:
    """Differential evolution over the values of the located weights, for positives kept + 10 * negatives fixed.

    `places` are the weights to move where they are known (of a placebo those of the repair); otherwise `locate`.
    """
    moved = SingleWeights(trainable, locate(trainable, sample) if places is None else places)
    settings = replace(settings, generations=iterations)

    def optimise(cost: Cost) -> Iterator[Best]:
        starts = moved.starts(settings.members, generator)
        return evolving(cost, starts, -BOUND, BOUND, settings, generator)

    names = tuple(place.name for place in moved.places)
    return Search(names, searched(trainable, sample, moved, fitness, optimise))


def fitness(negative: Tensor, positive: Tensor) -> Tensor:
    """Positives kept + 10 * negatives fixed, (candidates,), of margins (candidates, n) and (candidates, m)."""
    return (positive > 0).float().sum(-1) + FIXED * (negative > 0).float().sum(-1)


def locate(trainable: Trainable, sample: Sample) -> list[Place]:
    """The weights on the Pareto front of gradient and forward impact on negatives in relation to positives.

    Section 3.2 of the paper, as `repair.locating.pareto` has it: x / (1 + x on positives) depends on the unit of x, so
    x / (x on positives + its mean over the layer). Weights that the compression holds where they are take no part.
    """
    model = Watched(trainable)
    model.only_by_image(sample.positive.images)
    weights = [layer.parameters[0] for layer in model.weighted]
    free = can_move(trainable, {name: model.parameters[name] for name in weights})
    bad, good = impacts(model, sample.negative), impacts(model, sample.positive)
    one, two = (
        torch.cat(
            [
                x / (usual + usual.mean() + torch.finfo().tiny) * free[name].flatten()
                for name, x, usual in zip(weights, *kinds, strict=True)
            ]
        )
        for kinds in zip(bad, good, strict=True)
    )
    counted = fronts(one, two, LEAST)
    chosen = counted.argsort(descending=True, stable=True)[: min(MOST, int((counted > 0).sum()))]
    return places_of([(name, model.parameters[name].shape) for name in weights], chosen)


def places_of(tensors: Sequence[tuple[str, torch.Size]], rows: Tensor) -> list[Place]:
    """The places of row numbers (n,) counted through all tensors, given by name and shape, one after the other."""
    ends = torch.tensor([shape.numel() for _, shape in tensors]).cumsum(0)
    found = []
    for row in rows.tolist():
        which = int(torch.searchsorted(ends, row, right=True))
        name, shape = tensors[which]
        index = torch.unravel_index(torch.tensor(row - (int(ends[which]) - shape.numel())), shape)
        found.append(Place(name, tuple(int(number) for number in index)))
    return found
