"""Factors on the most responsible neurons, found by a particle swarm: BIRDNN's fine-tuning and CARE.

BIRDNN: Liang et al. (arXiv 2305.03365; Neural Networks 2024). CARE: Sun et al. (ICSE 2022).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from repair.locating.watched import Watched
from repair.search_based.neurons import Factors, Neuron, Neurons
from repair.search_based.responsibility import causal_effects, first, responsibilities
from repair.search_based.sample import Sample, Search, searched
from repair.search_based.swarm import Best, Cost, Swarm, swarming
from repair.trainable import Trainable


@dataclass(frozen=True)
class FactorSettings:
    """How factors 1 + w are searched for; the defaults are BIRDNN's."""

    neurons: int = 20
    low: float = -1.0  # bounds of w
    high: float = 1.0
    accuracy: float = 0.5  # a in (1 - a) violations + a (1 - accuracy)
    swarm: Swarm = field(default_factory=Swarm)


CARE = FactorSettings(low=-10.0, high=10.0)


def fine_tune(
    trainable: Trainable,
    sample: Sample,
    iterations: int,
    generator: torch.Generator,
    chosen: Sequence[Neuron] | None = None,
    settings: FactorSettings = FactorSettings(),
) -> Search:
    """BIRDNN's fine-tuning: factors on the neurons that behave most differently on negatives and positives.

    `chosen` are the neurons where they are known (of a placebo those of the repair).
    """
    neurons = Neurons(Watched(trainable), sample.positive.images)
    if chosen is None:
        chosen = first(responsibilities(neurons, sample), settings.neurons)
    return _by_swarm(trainable, sample, neurons, chosen, iterations, generator, settings)


def care(
    trainable: Trainable,
    sample: Sample,
    iterations: int,
    generator: torch.Generator,
    chosen: Sequence[Neuron] | None = None,
    settings: FactorSettings = CARE,
) -> Search:
    """CARE: factors on the neurons with the largest causal effect on negatives. `chosen` as for `fine_tune`."""
    neurons = Neurons(Watched(trainable), sample.positive.images)
    if chosen is None:
        chosen = first(causal_effects(neurons, sample.negative), settings.neurons)
    return _by_swarm(trainable, sample, neurons, chosen, iterations, generator, settings)


def _by_swarm(
    trainable: Trainable,
    sample: Sample,
    neurons: Neurons,
    chosen: Sequence[Neuron],
    iterations: int,
    generator: torch.Generator,
    settings: FactorSettings,
) -> Search:
    """The factors of least cost (1 - a) violations + a (1 - accuracy) (Liang et al., 2024, equation 8).

    Violations are the share of negatives that are still wrong, accuracy that of positives that stay right. The swarm
    starts with w = 0 among its particles, so that nothing found costs more than no repair.
    """
    factors, a = Factors(neurons, chosen), settings.accuracy

    def fitness(negative: Tensor, positive: Tensor) -> Tensor:
        fixed, accuracy = ((margins > 0).float().mean(-1) for margins in (negative, positive))
        return -((1 - a) * (1 - fixed) + a * (1 - accuracy))

    def optimise(cost: Cost) -> Iterator[Best]:
        return swarming(
            cost,
            torch.zeros(1, len(chosen)),
            settings.low,
            settings.high,
            replace(settings.swarm, iterations=iterations),
            generator,
        )

    names = tuple(neuron.name for neuron in chosen)
    return Search(names, searched(trainable, sample, factors, fitness, optimise))
