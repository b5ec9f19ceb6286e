"""What a repair of a property came to: one network held against the one before, on inputs that no repair has seen."""

from dataclasses import dataclass

import torch
from torch import Tensor

from repair.proof.intervals import NOTHING, Figure, rate
from repair.properties.dense import Function
from repair.properties.factors import Decision
from repair.properties.property import Property


def least(outputs: Tensor) -> Tensor:
    """The place of the least score, (...)."""
    return outputs.argmin(-1)


def greatest(outputs: Tensor) -> Tensor:
    """The place of the greatest score, (...)."""
    return outputs.argmax(-1)


DECISIONS: dict[str, Decision] = {"min": least, "max": greatest}
"""Name -> which output a network decides for; ACAS Xu's files take the least, most classifiers the greatest."""


@dataclass(frozen=True)
class Judges:
    """Inputs to judge with, float32 (n, inputs) each; any of them may be empty."""

    known: Tensor  # counterexamples that the repair was given
    counterexamples: Tensor  # drawn apart from those
    safe: Tensor  # drawn apart from those that the repair was given
    domain: Tensor  # fresh ones of the whole domain in which the network is used


@dataclass(frozen=True)
class Judged:
    """Shares in [0, 1] with their 95 % intervals (Wilson); of no inputs there is no share."""

    repaired: Figure  # known counterexamples that no longer violate
    unseen: Figure  # the same of unseen ones
    new_violations: Figure  # safe inputs that now violate
    agreement_box: Figure  # safe inputs that are decided as before
    agreement_domain: Figure  # the same of inputs of the domain


def judge(before: Function, after: Function, wanted: Property, judges: Judges, decide: Decision) -> Judged:
    """The figures of `after`, a network as a function of inputs (n, inputs) such as a file asked by its runtime.

    A network with one output decides nothing, so that agreement has no value there.
    """

    def agreement(inputs: Tensor) -> Figure:
        if wanted.outputs == 1 or not len(inputs):
            return NOTHING
        return _share(decide(before(inputs)) == decide(after(inputs)))

    def violated(inputs: Tensor) -> Tensor:
        return wanted.violated(inputs, after(inputs)) if len(inputs) else torch.zeros(0, dtype=torch.bool)

    return Judged(
        _share(~violated(judges.known)),
        _share(~violated(judges.counterexamples)),
        _share(violated(judges.safe)),
        agreement(judges.safe),
        agreement(judges.domain),
    )


def _share(mask: Tensor) -> Figure:
    return rate(int(mask.sum()), len(mask))
