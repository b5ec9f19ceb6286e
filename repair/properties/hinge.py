"""Hinge + fidelity, the default repair of a property: push counterexamples out, leave everything else as it is."""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from repair.properties.dense import DenseNetwork
from repair.properties.fidelity import difference, lost_lead
from repair.properties.property import Property
from repair.properties.walks import margins

LEAST = 1e-6
"""What the mean depth of counterexamples counts as at least, in the outputs' unit."""


@dataclass(frozen=True)
class HingeSettings:
    """How hard and how long `hinge_repair` pushes."""

    margin: float = 0.5  # depth to which counterexamples are pushed out, in mean depths of the counterexamples
    fidelity: float = 2.0  # weight of staying as the network was, >= 0
    batch: int = 512  # of each kind of input
    rate: float = 1e-3  # of Adam, in the root mean square of a layer's weights, falling to 0 as a cosine
    steps: int = 150
    look: int = 50  # steps between two looks at all samples
    rounds: int = 3  # such trainings at most, each with half the fidelity of the last
    enough: float = 1e-4  # share of the counterexamples that may violate still, or safe inputs anew, without another


@dataclass(frozen=True)
class Repaired:
    """The weights of a repaired network by name, and what their making took."""

    weights: Mapping[str, Tensor]
    steps: int
    remaining: int  # training counterexamples that still violate the property
    broken: int  # safe inputs, of both kinds, that now do
    seconds: float  # wall time


class _Kept(NamedTuple):
    """Inputs whose outputs are to stay, and how far from violation they are to remain at least, (n,)."""

    inputs: Tensor
    outputs: Tensor
    slack: Tensor


def hinge_repair(
    network: DenseNetwork,
    wanted: Property,
    counterexamples: Tensor,
    safe: Tensor,
    anywhere: Tensor,
    generator: torch.Generator,
    settings: HingeSettings = HingeSettings(),
) -> Repaired:
    """The weights that minimise hinge + fidelity, by Adam (D. Kingma and J. Ba, ICLR 2015) on batches of each kind.

    The hinge of a counterexample is max(0, margin + violation margin); that of a safe input the same, with its own
    distance from violation where that is less than the margin: it may come no nearer. Fidelity is `lost_lead` +
    `difference`, on safe inputs and on inputs from `anywhere` in the domain (n, inputs); either may be empty. Of the
    weights that looks at all samples have seen, those with the fewest violations count, then the most faithful ones.
    Where these still leave more than `enough`, another round goes on from them with less fidelity.
    """
    began = time.perf_counter()
    old = copy.deepcopy(network).requires_grad_(False)
    new = copy.deepcopy(network).requires_grad_(True)
    unit = margins(old, wanted, counterexamples).mean().clamp(min=LEAST)
    margin = settings.margin * unit
    kept = [_keep(old, wanted, inputs, margin) for inputs in (safe, anywhere)]
    best, steps, fidelity = None, 0, settings.fidelity
    while best is None or (
        steps < settings.rounds * settings.steps and best.violations > settings.enough * len(counterexamples)
    ):
        if best is not None:
            new.load_state_dict(dict(best.weights), strict=False)
        best = _train(new, wanted, counterexamples, kept, margin, unit, fidelity, generator, settings, best)
        steps, fidelity = steps + settings.steps, fidelity / 2
    return Repaired(best.weights, steps, best.remaining, best.broken, time.perf_counter() - began)


class _Best(NamedTuple):
    """The best weights that looks have seen."""

    violations: int
    distance: float
    weights: Mapping[str, Tensor]
    remaining: int
    broken: int


def _train(
    new: DenseNetwork,
    wanted: Property,
    counterexamples: Tensor,
    kept: list["_Kept"],
    margin: Tensor,
    unit: Tensor,
    fidelity: float,
    generator: torch.Generator,
    settings: HingeSettings,
    best: _Best | None,
) -> _Best:
    """One round of `hinge_repair` on the network `new`, and the best of its weights and of those known before."""
    optimizer = torch.optim.Adam(_groups(new, settings.rate))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    asked = counterexamples
    for step in range(1, settings.steps + 1):
        batch = asked[_rows(len(asked), settings.batch, generator)]
        loss = (wanted.margin(batch, new(batch)) + margin).clamp(min=0).mean() / unit
        for one in (some for some in kept if len(some.inputs)):
            rows = _rows(len(one.inputs), settings.batch, generator)
            loss = loss + _staying(new, wanted, _Kept(*(column[rows] for column in one)), unit, fidelity)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % settings.look == 0 or step == settings.steps:
            left = margins(new, wanted, counterexamples)
            asked = torch.cat([counterexamples, counterexamples[left > -margin / 2]])  # what is near counts twice
            remaining, broken, distance = _judge(new, wanted, left, kept)
            if best is None or (remaining + broken, distance) <= (best.violations, best.distance):
                best = _Best(remaining + broken, distance, new.weights(), remaining, broken)
    assert best is not None, "there is a look at the last step"
    return best


def _groups(network: DenseNetwork, rate: float) -> list[dict[str, Any]]:
    """Every layer with a step in proportion to its own weights: those of a last layer are often a thousandth."""
    sizes = [float(layer.get_parameter("weight").detach().square().mean().sqrt()) for layer in network.layers]
    usual = max(sizes) or 1.0  # a layer of zeros moves as the largest does
    return [
        {"params": list(layer.parameters()), "lr": rate * (size or usual)}
        for layer, size in zip(network.layers, sizes, strict=True)
    ]


def _keep(old: DenseNetwork, wanted: Property, inputs: Tensor, margin: Tensor) -> _Kept:
    """What is to stay: these inputs without those that violate the property, which the whole domain may hold."""
    with torch.no_grad():
        outputs = old(inputs)
        found = wanted.margin(inputs, outputs)
    holds = found < 0
    return _Kept(inputs[holds], outputs[holds], (-found[holds]).clamp(max=margin))


def _staying(new: DenseNetwork, wanted: Property, kept: _Kept, unit: Tensor, fidelity: float) -> Tensor:
    """The hinge and the fidelity of a batch of inputs that are to stay, one number."""
    outputs = new(kept.inputs)
    nearer = (wanted.margin(kept.inputs, outputs) + kept.slack).clamp(min=0)
    if not fidelity:
        return nearer.mean() / unit
    far = lost_lead(outputs, kept.outputs) + difference(outputs, kept.outputs)
    return nearer.mean() / unit + fidelity * far.mean()


def _judge(new: DenseNetwork, wanted: Property, left: Tensor, kept: list[_Kept]) -> tuple[int, int, float]:
    """Counterexamples left, inputs broken that were safe, and the mean distance from the network as it was."""
    broken, distance = 0, 0.0
    for one in (some for some in kept if len(some.inputs)):
        with torch.no_grad():
            outputs = new(one.inputs)
        distance += float((lost_lead(outputs, one.outputs) + difference(outputs, one.outputs)).mean())
        broken += int(wanted.violated(one.inputs, outputs).sum())
    return int((~(left < 0)).sum()), broken, distance  # NaN, of a training that diverged, holds nothing


def _rows(n: int, batch: int, generator: torch.Generator) -> Tensor:
    return torch.randint(n, (batch,), generator=generator)
