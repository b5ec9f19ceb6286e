"""Several properties at once: the one that says all of them, samples of each, and statements that hold together."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dflare.errors import InputError
from repair.properties.dense import Function
from repair.properties.pac import Statement, state
from repair.properties.property import Property
from repair.properties.sampling import Samples, draw_samples
from repair.properties.walks import margins


def conjunction(claims: Sequence[Property]) -> Property:
    """The property that is violated where any of the claims is.

    Raises `InputError` for claims about networks of different numbers of inputs or outputs.
    """
    if not claims:
        raise ValueError("expected at least one property, got none")
    first = claims[0]
    for other in claims[1:]:
        if (other.inputs, other.outputs) != (first.inputs, first.outputs):
            raise InputError(
                f"properties must be of the same network, {first.name} has {first.inputs} inputs and {first.outputs} "
                f"outputs, {other.name} has {other.inputs} and {other.outputs}"
            )
    names, cases = " and ".join(claim.name for claim in claims), [case for claim in claims for case in claim.cases]
    return Property(names, first.inputs, first.outputs, tuple(cases))


def draw_claim(network: Function, claim: Property, n: int, generator: torch.Generator) -> Samples:
    """n counterexamples and n safe inputs of a property, as `draw_samples`; where none violates, safe ones alone."""
    began = generator.get_state()
    try:
        return draw_samples(network, claim, n, generator)
    except InputError:  # which says that there is no counterexample
        generator.set_state(began)
        inputs = claim.sample(n, generator)
        safe = inputs[margins(network, claim, inputs) < 0].unique(dim=0)
        return Samples(inputs[:0], safe, n, n - len(safe), 0.0, "none found")


def join_samples(drawn: Sequence[Samples], wanted: Property, network: Function) -> tuple[Tensor, Tensor]:
    """Counterexamples of all claims, and those safe inputs that violate none of them (`wanted` is their conjunction).

    Without duplicates, float32 (n, inputs) each.
    """
    bad = torch.cat([one.counterexamples for one in drawn])
    safe = torch.cat([one.safe for one in drawn])
    safe = safe[margins(network, wanted, safe) < 0] if len(safe) else safe
    if len(drawn) == 1:
        return bad, safe
    return bad.unique(dim=0), safe.unique(dim=0)


def state_each(
    network: Function, claims: Sequence[Property], samples: int, delta: float, seed: int
) -> tuple[Statement, ...]:
    """A statement about each claim from `samples` fresh inputs of its own boxes, each with delta / number of claims.

    With confidence 1 - delta all of them hold together (Bonferroni). The seed must be of no other draw; the same one
    for two networks asks both the same.
    """
    return tuple(
        state(network, claim, samples, delta / len(claims), torch.Generator().manual_seed(seed + index))
        for index, claim in enumerate(claims)
    )
