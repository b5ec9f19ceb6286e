"""CARE: causality-based repair (Sun et al., ICSE 2022), for vectors: neurons are blamed by intervening on them."""

import torch
from torch import Tensor

from repair.properties.dense import DenseNetwork
from repair.properties.factors import Decision, FactorSettings, most_responsible, search_factors
from repair.properties.property import Property

VALUES = 4
"""Values of its range to which a neuron is fixed."""

ASKED = 200
"""Inputs on which an intervention is watched."""

CARE = FactorSettings(low=-10.0, high=10.0)
"""Bounds of the swarm as published."""


def causal_effects(network: DenseNetwork, wanted: Property, inputs: Tensor) -> list[Tensor]:
    """How much each hidden neuron sways the violation margin, (neurons,) a layer, in the outputs' unit.

    The mean over `VALUES` values v, evenly over the range of the neuron on these inputs (n, inputs), of
    |mean margin with the neuron fixed to v - mean margin as it is|: the average causal effect of Chattopadhyay et al.
    (ICML 2019), on which CARE builds.
    """
    found = []
    with torch.no_grad():
        usual = wanted.margin(inputs, network(inputs)).mean()
        for layer, values in enumerate(network.hidden(inputs)):
            low, high = values.amin(0), values.amax(0)
            shares = torch.linspace(0, 1, VALUES)
            effects = []
            for neuron in range(values.shape[1]):
                fixed = values.repeat(VALUES, 1, 1)
                fixed[:, :, neuron] = (low + (high - low) * shares[:, None])[:, neuron, None]
                outputs = network.finish(fixed, layer)
                margins = torch.stack([wanted.margin(inputs, each) for each in outputs])
                effects.append((margins.mean(-1) - usual).abs().mean())
            found.append(torch.stack(effects))
    return found


def care(
    network: DenseNetwork,
    wanted: Property,
    counterexamples: Tensor,
    safe: Tensor,
    decide: Decision,
    generator: torch.Generator,
    settings: FactorSettings = CARE,
) -> dict[str, Tensor]:
    """The weights after a swarm has set factors on the neurons with the largest causal effect on counterexamples."""
    some = counterexamples[torch.randperm(len(counterexamples), generator=generator)[:ASKED]]
    neurons = most_responsible(causal_effects(network, wanted, some), settings.neurons)
    return search_factors(network, wanted, (counterexamples, safe), neurons, decide, settings, generator)
