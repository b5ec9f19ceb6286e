"""Judging a repair of a property: figures that can be counted by hand."""

import torch

from repair.properties.judging import DECISIONS, Judges, judge
from repair.properties.property import Box, Case, Polytope, Property

UNSAFE = Polytope(torch.tensor([[-1.0, 0.0]]).double(), torch.tensor([-0.8]).double())
WANTED = Property("low", 1, 2, (Case(Box(torch.zeros(1).double(), torch.ones(1).double()), (UNSAFE,)),))
"""y0 must stay below 0.8 for x in [0, 1]."""


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


def before(inputs: torch.Tensor) -> torch.Tensor:
    """y = (x, 0.5)."""
    return torch.cat([inputs, torch.full_like(inputs, 0.5)], -1)


def after(inputs: torch.Tensor) -> torch.Tensor:
    """y = (0.8 x, 0.5), but 0.9 at 0.3."""
    first = torch.where((inputs - 0.3).abs() < 1e-6, 0.9, 0.8 * inputs)
    return torch.cat([first, torch.full_like(inputs, 0.5)], -1)


def test_figures_are_what_can_be_counted_by_hand():
    """After: 1.0 still ties with 0.8; 0.3 violates now; 0.3 and 0.6 are decided otherwise, of the domain 0.6 alone."""
    judges = Judges(column(0.9, 1.0), column(0.85, 0.95, 0.99), column(0.1, 0.3, 0.6, 0.7), column(-1.0, 0.6))
    found = judge(before, after, WANTED, judges, DECISIONS["max"])
    values = [found.repaired, found.unseen, found.new_violations, found.agreement_box, found.agreement_domain]
    assert [one.value for one in values] == [0.5, 1.0, 0.25, 0.5, 0.5]
    assert [one.n for one in values] == [2, 3, 4, 4, 2]
    assert all(one.low <= one.value <= one.high for one in values)


def test_the_sign_of_the_decision_matters():
    """The wrong case: with the least score the two networks are said to agree where they do not."""
    nothing = column()

    def flipped(inputs: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[0.0, 1.0, 2.0]]).expand(len(inputs), 3)

    def turned(inputs: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[0.0, 2.0, 1.0]]).expand(len(inputs), 3)

    wanted = Property("three", 1, 3, (Case(WANTED.cases[0].box, (Polytope(torch.eye(3).double(), torch.ones(3)),)),))
    judges = Judges(nothing, nothing, column(0.1), nothing)
    agreed = {name: judge(flipped, turned, wanted, judges, decide) for name, decide in DECISIONS.items()}
    assert {name: found.agreement_box.value for name, found in agreed.items()} == {"min": 1.0, "max": 0.0}


def test_of_no_inputs_there_is_no_share():
    found = judge(before, after, WANTED, Judges(column(), column(), column(), column()), DECISIONS["min"])
    assert {found.repaired.value, found.unseen.value, found.new_violations.value, found.agreement_box.value} == {None}


def test_the_network_as_it_is_repairs_nothing_and_agrees_with_itself():
    judges = Judges(column(0.9, 1.0), column(0.85), column(0.1, 0.3), column(-1.0))
    found = judge(before, before, WANTED, judges, DECISIONS["max"])
    assert (found.repaired.value, found.unseen.value, found.new_violations.value) == (0, 0, 0)
    assert (found.agreement_box.value, found.agreement_domain.value) == (1, 1)
