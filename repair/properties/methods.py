"""Repairs of a property by name, on one interface: a task and a generator go in, weights come out."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from repair.properties.birdnn import Retraining, fine_tune, retrain
from repair.properties.care import care
from repair.properties.dense import DenseNetwork
from repair.properties.factors import Decision, FactorSettings
from repair.properties.hinge import HingeSettings, hinge_repair
from repair.properties.property import Property

ROUNDS = 3
"""Of BIRDNN's retraining and fine-tuning in turn, at most."""


@dataclass(frozen=True)
class Task:
    """What a repair is given; inputs are float32 (n, inputs)."""

    network: DenseNetwork
    wanted: Property
    counterexamples: Tensor
    safe: Tensor
    anywhere: Tensor  # of the whole domain in which the network is used; may be empty
    decide: Decision


Weights = dict[str, Tensor]
Method = Callable[[Task, torch.Generator], Weights]
"""A repair: the new weights by name. It leaves the task's network alone and draws from the generator only."""


def hinge(task: Task, generator: torch.Generator) -> Weights:
    """The default: hinge + fidelity."""
    found = hinge_repair(task.network, task.wanted, task.counterexamples, task.safe, task.anywhere, generator)
    return dict(found.weights)


def plain(task: Task, generator: torch.Generator) -> Weights:
    """The control: the hinge on counterexamples alone, where nothing holds the network as it was."""
    nothing, settings = task.safe[:0], HingeSettings(fidelity=0.0)
    found = hinge_repair(task.network, task.wanted, task.counterexamples, nothing, nothing, generator, settings)
    return dict(found.weights)


def birdnn_retrain(task: Task, generator: torch.Generator) -> Weights:
    """BIRDNN's first half: counterexamples learn the nearest behaviour of safe inputs."""
    return retrain(task.network, task.counterexamples, task.safe, Retraining(), generator)


def birdnn_finetune(task: Task, generator: torch.Generator) -> Weights:
    """BIRDNN's second half: a swarm sets factors on the most responsible neurons."""
    samples = (task.counterexamples, task.safe)
    return fine_tune(task.network, task.wanted, *samples, task.decide, FactorSettings(), generator)


def birdnn(task: Task, generator: torch.Generator) -> Weights:
    """BIRDNN, both halves in turn, `ROUNDS` times at most; of all weights on the way those of the least `cost`.

    Stops once a half leaves no violation among the samples. Each half goes on from what the one before has left, so
    the result costs no more than no repair.
    """
    now, best = task.network, (cost(task, task.network.weights()), task.network.weights())
    for half in (birdnn_retrain, birdnn_finetune) * ROUNDS:
        now = with_weights(now, half(Task(now, *_rest(task)), generator))
        reached = cost(task, now.weights())
        best = min(best, (reached, now.weights()), key=lambda one: one[0])
        if not reached.violations:
            break
    return best[1]


def by_care(task: Task, generator: torch.Generator) -> Weights:
    """CARE: a swarm sets factors on the neurons with the largest causal effect."""
    return care(task.network, task.wanted, task.counterexamples, task.safe, task.decide, generator)


METHODS: dict[str, Method] = {
    "hinge": hinge,
    "birdnn": birdnn,
    "birdnn-retrain": birdnn_retrain,
    "birdnn-finetune": birdnn_finetune,
    "care": by_care,
    "plain": plain,
}
"""Name -> repair; the first is the default, `plain` is the control of all others."""


@dataclass(frozen=True, order=True)
class Cost:
    """What weights come to on the samples of a task; the lesser, the better."""

    total: float  # violations + lost
    violations: float  # share of counterexamples that still violate + share of safe inputs that now do, in [0, 2]
    lost: float  # share of safe inputs decided otherwise than by the network handed in, in [0, 1]


def cost(task: Task, weights: Mapping[str, Tensor]) -> Cost:
    """The cost of weights: BIRDNN's (Liang et al., 2024, equation 8) on all samples, its two halves alike."""
    network = task.network.with_weights(weights)
    with torch.no_grad():
        bad, good, before = (network(task.counterexamples), network(task.safe), task.network(task.safe))
    violations = _share(task.wanted.violated(task.counterexamples, bad)) + _share(task.wanted.violated(task.safe, good))
    lost = _share(task.decide(good) != task.decide(before))
    return Cost(violations + lost, violations, lost)


def with_weights(network: DenseNetwork, weights: Mapping[str, Tensor]) -> DenseNetwork:
    """A copy of the network with these weights, by parameter name, in place of its own."""
    new = copy.deepcopy(network)
    with torch.no_grad():
        for name, parameter in new.named_parameters():
            parameter.copy_(weights[name])
    return new


def _rest(task: Task) -> tuple[Property, Tensor, Tensor, Tensor, Decision]:
    return task.wanted, task.counterexamples, task.safe, task.anywhere, task.decide


def _share(mask: Tensor) -> float:
    return float(mask.double().mean()) if len(mask) else 0.0
