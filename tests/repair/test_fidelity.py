"""Fidelity in numbers worked out by hand."""

import pytest
import torch

from repair.properties.fidelity import REACH, difference, lost_lead

BEFORE = torch.tensor([[0.0, 1.0, 2.0]])
SPREAD = (2 / 3) ** 0.5


def test_outputs_that_stay_cost_nothing():
    assert difference(BEFORE, BEFORE).item() == lost_lead(BEFORE, BEFORE).item() == 0


def test_differences_are_in_units_of_the_spread_of_the_scores():
    after = torch.tensor([[0.3, 1.0, 2.0]])
    assert difference(after, BEFORE).item() == pytest.approx(0.1 / SPREAD)
    assert difference(after / 1000, BEFORE / 1000).item() == pytest.approx(0.1 / SPREAD, rel=1e-4)


def test_a_lead_may_shrink_to_its_reach_and_no_further():
    """The least score leads by 1; it may lose all but 0.2 of the spread."""
    held = torch.tensor([[1 - REACH * SPREAD - 1e-3, 1.0, 3.0]])
    lost = torch.tensor([[1 - REACH * SPREAD / 4, 1.0, 3.0]])
    assert lost_lead(held, BEFORE).item() == 0
    assert lost_lead(lost, BEFORE).item() == pytest.approx(0.75)


@pytest.mark.parametrize("after", [[1.0, 0.0, 2.0], [0.0, 2.0, 1.0]])
def test_a_decision_that_changes_costs_more_than_one_at_either_end(after: list[float]):
    assert lost_lead(torch.tensor([after]), BEFORE).item() > 1


def test_what_lies_in_between_may_change_places():
    before, after = torch.tensor([[0.0, 1.0, 2.0, 5.0]]), torch.tensor([[0.0, 2.0, 1.0, 5.0]])
    assert lost_lead(after, before).item() == 0


def test_scores_that_tie_and_single_scores_have_finite_gradients():
    for before in (torch.zeros(2, 3), torch.ones(2, 1)):
        after = before.clone().requires_grad_()
        (difference(after, before) + lost_lead(after, before)).sum().backward()
        assert after.grad is not None
        assert after.grad.isfinite().all()
