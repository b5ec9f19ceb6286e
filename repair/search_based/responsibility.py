"""How much each hidden neuron answers for: by how it behaves (BIRDNN), and by what becomes of the answers (CARE)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from repair.data import Examples
from repair.locating.tracing import Asked, Change
from repair.locating.watched import by_channel
from repair.search_based.neurons import Neuron, Neurons
from repair.search_based.sample import Sample

ASKED = 64
"""Negatives on which an intervention is watched."""

VALUES = 4
"""Values of its range to which a neuron is fixed."""


def responsibilities(neurons: Neurons, sample: Sample) -> dict[str, Tensor]:
    """|mean activation on negatives - mean on positives| of every hidden neuron, (neurons,) by layer.

    Means over images, and over the places of a channel, so that more samples of one kind do no harm.
    """
    ends = {name: layer.end for name, layer in neurons.layers.items()}
    means = [_means(neurons, examples, ends) for examples in (sample.negative, sample.positive)]
    return {name: (means[0][name] - means[1][name]).abs() for name in ends}


def causal_effects(neurons: Neurons, negative: Examples) -> dict[str, Tensor]:
    """How much each hidden neuron sways the margin of the right label, (neurons,) by layer, in scores.

    The mean over `VALUES` values v, evenly over the range of the channel's means on these images, of
    |mean margin with the whole channel at v - mean margin as it is|: the average causal effect of Chattopadhyay et
    al. (ICML 2019), on which CARE builds.
    """
    some = Examples(negative.images[:ASKED], negative.targets[:ASKED])
    ends = {name: layer.end for name, layer in neurons.layers.items()}
    usual = neurons.model.outcome(some, Asked(keep=list(ends.values())))
    found = {}
    for name, end in ends.items():
        values = by_channel(usual.kept[end])
        low, high = values.amin(0), values.amax(0)
        effects = []
        for neuron in range(values.shape[1]):
            margins = [
                neurons.model.outcome(some, Asked(change={end: _fix(neuron, float(value))})).margins.mean()
                for value in torch.linspace(float(low[neuron]), float(high[neuron]), VALUES)
            ]
            effects.append((torch.stack(margins) - usual.margins.mean()).abs().mean())
        found[name] = torch.stack(effects)
    return found


def first(responsible: Mapping[str, Tensor], count: int) -> list[Neuron]:
    """The neurons with the largest responsibilities, the largest first; those with none are left out."""
    every = [Neuron(name, index) for name, values in responsible.items() for index in range(len(values))]
    if not every:
        return []
    values = torch.cat(list(responsible.values()))
    order = values.argsort(descending=True, stable=True)[:count]
    return [every[place] for place in order.tolist() if float(values[place]) > 0]


def _means(neurons: Neurons, examples: Examples, ends: Mapping[str, str]) -> dict[str, Tensor]:
    """Mean value of every channel, (channels,) by layer; batch by batch, as all values together take much memory."""
    totals = {name: torch.zeros(()) for name in ends}
    with torch.no_grad():
        for part in neurons.model.parts(examples):
            asked = Asked(keep=list(ends.values()))
            neurons.model.scores(part.images, asked)
            for name, end in ends.items():
                totals[name] = totals[name] + by_channel(asked.kept[end][: part.count]).sum(0)
    return {name: total / max(1, len(examples)) for name, total in totals.items()}


def _fix(channel: int, value: float) -> Change:
    """Holds one channel of a value at a number."""

    def fix(values: Tensor) -> Tensor:
        values = values.clone()
        values[:, channel] = value
        return values

    return fix
