"""Factors on the activations of few neurons, found by a particle swarm and written back into the weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from repair.properties.dense import DenseNetwork, fold_factors
from repair.properties.property import Property
from repair.search_based.swarm import Swarm, population_outputs, swarm

Decision = Callable[[Tensor], Tensor]
"""Outputs (..., outputs) -> what the network decides, whole numbers (...), such as the least or the largest score."""


@dataclass(frozen=True)
class Neuron:
    """A hidden neuron: its layer, from 0, and its place there."""

    layer: int
    index: int


@dataclass(frozen=True)
class FactorSettings:
    """How factors are searched for; the numbers are BIRDNN's.

    Its public code differs in three points: all particles start at w = 0 (here one does, the others anywhere), the
    swarm ends after ten iterations without 0.001 of gain, and a cost is measured on all samples.
    """

    neurons: int = 20  # the most responsible ones
    low: float = -1.0  # bounds of w in the factor 1 + w
    high: float = 1.0
    accuracy: float = 0.5  # a in (1 - a) violations + a (1 - accuracy)
    asked: int = 1000  # inputs of each kind that a cost is measured on
    swarm: Swarm = field(default_factory=Swarm)


def search_factors(
    network: DenseNetwork,
    wanted: Property,
    inputs: tuple[Tensor, Tensor],
    neurons: Sequence[Neuron],
    decide: Decision,
    settings: FactorSettings,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The weights of the network with the best factors (1 + w) on these neurons folded in.

    The cost of w is (1 - a) * violations + a * (1 - accuracy) (Liang et al., 2024, equation 8): the share of
    counterexamples that still violate or safe inputs that now do, and the share of safe inputs that are decided as
    before. A constant network, which violates nothing, loses the accuracy. `inputs` are counterexamples and safe
    inputs (n, inputs); the swarm starts with w = 0 among its particles, so the result costs no more than no repair.
    """
    bad, safe = (some[torch.randperm(len(some), generator=generator)[: settings.asked]] for some in inputs)
    together = torch.cat([bad, safe])
    with torch.no_grad():
        decided = decide(network(safe))

    def cost(candidates: Tensor) -> Tensor:
        with torch.no_grad():
            outputs = population_outputs(network, _folded(network, neurons, candidates), together)
        violated = torch.stack([wanted.violated(together, each) for each in outputs])
        kept = (decide(outputs[:, len(bad) :]) == decided).double().mean(-1)
        violations = (violated[:, : len(bad)].double().mean(-1) + violated[:, len(bad) :].double().mean(-1)).clamp(
            max=1
        )
        return ((1 - settings.accuracy) * violations + settings.accuracy * (1 - kept)).float()

    start = torch.zeros(1, len(neurons))
    best = swarm(cost, start, settings.low, settings.high, settings.swarm, generator)
    return fold_factors(network, _by_layer(network, neurons, best.values))


def most_responsible(responsibilities: Sequence[Tensor], count: int) -> list[Neuron]:
    """The neurons with the largest responsibilities, the largest first; one (neurons,) for every hidden layer."""
    sizes = [len(layer) for layer in responsibilities]
    places = torch.cat(list(responsibilities)).argsort(descending=True, stable=True)[:count].tolist()
    every = [Neuron(layer, index) for layer, size in enumerate(sizes) for index in range(size)]
    return [every[place] for place in places]


def _by_layer(network: DenseNetwork, neurons: Sequence[Neuron], w: Tensor) -> list[Tensor]:
    """The factors of all neurons of every hidden layer, (..., neurons) each, for w (..., chosen neurons)."""
    factors = [w.new_ones(*w.shape[:-1], size) for size in network.widths]
    for place, neuron in enumerate(neurons):
        factors[neuron.layer][..., neuron.index] = 1 + w[..., place]
    return factors


def _folded(network: DenseNetwork, neurons: Sequence[Neuron], candidates: Tensor) -> dict[str, Tensor]:
    """The weights that candidates (candidates, neurons) change, (candidates, to, from) each."""
    factors, touched = _by_layer(network, neurons, candidates), {neuron.layer for neuron in neurons}
    weights = network.weights()
    names = {layer: f"layers.{layer + 1}.weight" for layer in sorted(touched)}
    return {name: weights[name] * factors[layer][:, None, :] for layer, name in names.items()}
