"""Which weights both matter for the wrong answers and would mend them if moved: Arachne's localisation."""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from repair.data import Examples
from repair.locating.gradient import amounts, channel_sums
from repair.locating.layers import Layer
from repair.locating.measurement import Case, Measurement
from repair.locating.tracing import Asked
from repair.locating.watched import Watched

PARTS = 8
"""Parts of the triggers whose impacts are kept apart, for the intervals: all triggers times all weights is too much."""

FRONT = 100
"""Weights to choose at least: fronts are peeled off until there are so many."""


def pareto(case: Case) -> Measurement:
    """Weights on the Pareto fronts of gradient and forward impact; a layer's score is what its weights come to.

    Arachne's bidirectional localisation (Sohn et al., TOSEM 2023, section 3.2): for each weight w_ij |d loss / d w_ij|
    and |o_i * w_ij|, o_i being the activation that it multiplies, on triggers in relation to clean images. Arachne's
    x / (1 + x on clean images) depends on the units of x; here it is x / (x on clean images + their mean over the
    layer). Weights that no other surpasses in both are the first front and count 1; fronts are peeled off until `FRONT`
    weights are chosen, those of the k-th count 1/k. A large layer has more to choose from: trust the weights it names
    within a layer more than the shares of layers. Biases, which multiply nothing, take no part. The loss is that of
    `gradient`.
    """
    layers, n = case.model.weighted, len(case.triggers)
    clean = impacts(case.model, case.clean)
    count = min(PARTS, n)
    bounds = [round(part * n / count) for part in range(count + 1)]
    parts = [
        impacts(case.model, Examples(case.triggers.images[a:b], case.triggers.targets[a:b]))
        for a, b in pairwise(bounds)
    ]

    def chosen(shares: Tensor) -> list[Tensor]:
        """What each weight counts, a tensor (weights,) for each layer."""
        relative: tuple[list[Tensor], list[Tensor]] = [], []
        for objective, ratios in enumerate(relative):
            for layer, usual in enumerate(clean[objective]):
                found = torch.stack([part[objective][layer] for part in parts])
                ratios.append((shares @ found) / (usual + usual.mean() + torch.finfo().tiny))
        sizes = [len(ratio) for ratio in relative[0]]
        return list(fronts(torch.cat(relative[0]), torch.cat(relative[1]), FRONT).split(sizes))

    def scores(shares: Tensor) -> Tensor:
        return torch.stack([torch.stack([weights.sum() for weights in chosen(row)]) for row in shares])

    best = zip(layers, chosen(torch.full((count,), 1 / count)), strict=True)
    each: list[Mapping[str, Tensor]] = [
        {layer.parameters[0]: weights.view(case.model.parameters[layer.parameters[0]].shape)} for layer, weights in best
    ]
    channels = [channel_sums(weights, layer) for layer, weights in zip(layers, each, strict=True)]
    return Measurement(layers, count, scores, channels, each)


def impacts(model: Watched, examples: Examples) -> tuple[list[Tensor], list[Tensor]]:
    """Mean |d loss / d w| and mean |activation * w| over the images, (weights,) each for every layer."""
    slopes = amounts(model, examples, times_weight=False).weights
    read = model.outcome(examples, Asked(keep=[layer.reads for layer in model.weighted])).kept
    backward, forward = [], []
    for layer in model.weighted:
        weight = model.parameters[layer.parameters[0]]
        backward.append(slopes[layer.parameters[0]].flatten())
        forward.append((weight.abs() * activity(read[layer.reads], weight, layer)).flatten())
    return backward, forward


def activity(values: Tensor, weight: Tensor, layer: Layer) -> Tensor:
    """Mean magnitude of the activation that each weight multiplies, broadcast against the weight."""
    if weight.ndim > 2:  # a convolution of `groups` groups; its weight is (out, in / groups, ...)
        each = values.abs().transpose(0, 1).flatten(1).mean(-1)
        groups = len(each) // weight.shape[1]
        rows = each.view(groups, weight.shape[1]).repeat_interleave(len(weight) // groups, 0)
        return rows.view(*rows.shape, *[1] * (weight.ndim - 2))
    each = values.abs().flatten(0, -2).mean(0)
    return each[:, None] if layer.axis else each


def fronts(one: Tensor, two: Tensor, least: int) -> Tensor:
    """1/k for the items (n,) on the k-th Pareto front of two objectives to be large, 0 for those beyond.

    Fronts are counted until they hold `least` items or all. Equal items share a front. Items without the first
    objective (0) are left out.
    """
    order = two.argsort(descending=True, stable=True)
    order = order[one[order] > 0]
    left = order[one[order].argsort(descending=True, stable=True)]  # by the first, then by the second objective
    counted, depth = torch.zeros(len(one)), 1
    while len(left) and int((counted > 0).sum()) < least:
        front = _first_front(one[left], two[left])
        counted[left[front]] = 1 / depth
        left, depth = left[~front], depth + 1
    return counted


def _first_front(one: Tensor, two: Tensor) -> Tensor:
    """Which of the items (n,), ordered by both, no other surpasses in one objective without loss in the other."""
    best = two.cummax(0).values  # of all items up to here
    surpasses = two > torch.cat([two.new_full((1,), -torch.inf), best[:-1]])
    same = (one[1:] == one[:-1]) & (two[1:] == two[:-1])
    repeats = torch.cat([same.new_zeros(1), same])
    first = torch.where(repeats, 0, torch.arange(len(one))).cummax(0).values  # the first of equal items decides
    return surpasses[first]
