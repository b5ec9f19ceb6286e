"""Several properties at once: what violates any of them, samples of each, and statements that hold together."""

import pytest
import torch

from dflare.errors import InputError
from repair.properties.claims import conjunction, draw_claim, join_samples, state_each
from repair.properties.pac import violation_bound
from repair.properties.property import Box, Case, Polytope, Property
from repair.properties.sampling import Samples


def claim(name: str, low: float, high: float, bound: float, inputs: int = 1) -> Property:
    """On [low, high] the output must stay below the bound."""
    box = Box(torch.full((inputs,), low).double(), torch.full((inputs,), high).double())
    unsafe = Polytope(-torch.ones(1, 1).double(), torch.tensor([-bound]).double())
    return Property(name, inputs, 1, (Case(box, (unsafe,)),))


def same(inputs: torch.Tensor) -> torch.Tensor:
    """y = x."""
    return inputs


LEFT, RIGHT = claim("left", 0, 1, 0.75), claim("right", 1, 2, 1.5)


def test_a_conjunction_is_violated_where_any_claim_is():
    inputs = torch.tensor([[0.5], [0.8], [1.2], [1.6], [3.0]])
    both = conjunction((LEFT, RIGHT))
    assert both.violated(inputs, inputs).tolist() == [False, True, False, True, False]
    assert both.name == "left and right"


def test_claims_about_two_networks_are_refused():
    with pytest.raises(InputError, match="left has 1 inputs and 1 outputs, wide has 2 and 1"):
        conjunction((LEFT, claim("wide", 0, 1, 0.5, inputs=2)))


def test_samples_of_one_claim_that_violate_another_are_not_safe():
    strict = claim("strict", 0, 1, 0.5)
    drawn = [
        Samples(torch.tensor([[0.8]]), torch.tensor([[0.2], [0.6]]), 3, 1, 0.3, "uniform"),
        Samples(torch.tensor([[0.6], [0.8]]), torch.tensor([[0.1], [0.2]]), 4, 2, 0.5, "uniform"),
    ]
    bad, safe = join_samples(drawn, conjunction((LEFT, strict)), same)
    assert bad.flatten().tolist() == pytest.approx([0.6, 0.8])
    assert safe.flatten().tolist() == pytest.approx([0.1, 0.2])


def test_without_a_counterexample_there_are_safe_inputs(monkeypatch: pytest.MonkeyPatch):
    def found_none(*arguments: object) -> Samples:
        raise InputError("no counterexample of far was found")

    monkeypatch.setattr("repair.properties.claims.draw_samples", found_none)
    drawn = draw_claim(same, claim("far", 0, 1, 5.0), 20, torch.Generator().manual_seed(0))
    assert (drawn.counterexamples.shape, len(drawn.safe), drawn.method) == ((0, 1), 20, "none found")


def test_each_of_two_statements_has_half_of_the_risk():
    """A quarter and a half of the boxes violate; bounds are those of Clopper and Pearson at delta / 2."""
    left, right = state_each(same, (LEFT, RIGHT), 4000, 0.02, seed=5)
    assert left.rate == pytest.approx(0.25, abs=0.03)
    assert right.rate == pytest.approx(0.5, abs=0.04)
    assert (left.delta, left.bound) == (0.01, violation_bound(left.violations, 4000, 0.01))
    (alone,) = state_each(same, (LEFT,), 4000, 0.02, seed=5)
    assert alone.violations == left.violations
    assert alone.bound < left.bound
