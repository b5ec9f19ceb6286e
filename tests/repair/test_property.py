"""Properties: margins decided on paper, boxes in float32, and draws that stay inside."""

import pytest
import torch

from repair.properties.property import Box, Case, Polytope, Property, volumes

F64 = torch.float64


def box(*sides: tuple[float, float]) -> Box:
    return Box(*torch.tensor(sides, dtype=F64).unbind(-1))


def polytope(*rows: tuple[list[float], float]) -> Polytope:
    return Polytope(torch.tensor([row for row, _ in rows], dtype=F64), torch.tensor([b for _, b in rows], dtype=F64))


FIRST_IS_LEAST = polytope(([1, -1, 0], 0), ([1, 0, -1], 0))
SECOND_IS_LEAST = polytope(([-1, 1, 0], 0), ([0, 1, -1], 0))


def test_the_margin_is_the_least_slack_of_an_and_and_the_greatest_of_an_or():
    both = Property("p", 1, 3, (Case(box((0, 1)), (FIRST_IS_LEAST, SECOND_IS_LEAST)),))
    outputs = torch.tensor([[1.0, 3.0, 4.0], [3.0, 1.0, 4.0], [5.0, 4.0, 1.0]])
    inputs = torch.full((3, 1), 0.5)
    assert both.margin(inputs, outputs).tolist() == [2.0, 2.0, -3.0]
    alone = Property("p", 1, 3, (Case(box((0, 1)), (FIRST_IS_LEAST,)),))
    assert alone.margin(inputs, outputs).tolist() == [2.0, -2.0, -4.0]


def test_an_or_read_as_an_and_would_be_noticed():
    inputs, outputs = torch.full((1, 1), 0.5), torch.tensor([[1.0, 3.0, 4.0]])
    either = Property("or", 1, 3, (Case(box((0, 1)), (FIRST_IS_LEAST, SECOND_IS_LEAST)),))
    rows = [
        torch.cat([getattr(one, name) for one in (FIRST_IS_LEAST, SECOND_IS_LEAST)])
        for name in ("coefficients", "bounds")
    ]
    both = Property("and", 1, 3, (Case(box((0, 1)), (Polytope(*rows),)),))
    assert either.violated(inputs, outputs).tolist() == [True]
    assert both.violated(inputs, outputs).tolist() == [False]


def test_a_tie_violates_since_the_region_is_closed():
    found = Property("p", 1, 3, (Case(box((0, 1)), (FIRST_IS_LEAST,)),))
    assert found.violated(torch.zeros(1, 1), torch.zeros(1, 3)).item()


def test_outputs_that_are_no_numbers_violate():
    found = Property("p", 1, 3, (Case(box((0, 1)), (FIRST_IS_LEAST,)),))
    inputs = torch.tensor([[0.5], [2.0]])
    assert found.violated(inputs, torch.full((2, 3), torch.nan)).tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_point_into_the_unsafe_region(dtype: torch.dtype):
    found = Property("p", 1, 3, (Case(box((0, 1)), (FIRST_IS_LEAST,)),))
    outputs = torch.tensor([[2.0, 1.0, 5.0]], dtype=dtype, requires_grad=True)
    found.margin(torch.zeros(1, 1, dtype=dtype), outputs).sum().backward()
    assert outputs.grad is not None
    assert outputs.grad.tolist() == [[-1.0, 1.0, 0.0]]


def test_float32_bounds_lie_inside_the_box():
    narrow = box((0.1, 0.7), (-0.3, 0.3))
    low, high = narrow.bounds(torch.float32)
    assert (low.double() >= narrow.low).all()
    assert (high.double() <= narrow.high).all()
    ends = torch.tensor([[0.1, 0.0], [0.7, 0.0]], dtype=torch.float32)  # 0.1f > 0.1, and 0.7f < 0.7
    assert narrow.contains(ends).all()
    below = torch.nextafter(low, torch.full_like(low, -torch.inf))
    assert not narrow.contains(below[None]).any()


def test_a_side_without_length_is_the_nearest_number():
    point = box((0.1, 0.1), (0, 1))
    drawn = point.sample(5, torch.Generator().manual_seed(0))
    assert (drawn[:, 0] == torch.tensor(0.1)).all()
    assert point.contains(drawn).all()


def test_draws_are_uniform_and_repeatable():
    wide = box((-2, 2), (5, 6))
    drawn = wide.sample(20_000, torch.Generator().manual_seed(1))
    assert wide.contains(drawn).all()
    assert drawn.mean(0).tolist() == pytest.approx([0, 5.5], abs=0.05)  # 6 and 25 standard errors
    assert torch.equal(drawn, wide.sample(20_000, torch.Generator().manual_seed(1)))
    assert not torch.equal(drawn, wide.sample(20_000, torch.Generator().manual_seed(2)))


def test_boxes_are_drawn_by_their_volume():
    cases = (Case(box((0, 1)), (FIRST_IS_LEAST,)), Case(box((10, 13)), (FIRST_IS_LEAST,)))
    drawn = Property("p", 1, 3, cases).sample(10_000, torch.Generator().manual_seed(0))
    assert (drawn > 5).double().mean().item() == pytest.approx(0.75, abs=0.02)


def test_volumes_leave_out_sides_that_are_points_everywhere():
    assert volumes([box((0, 1), (3, 3)), box((0, 3), (4, 4))]).tolist() == pytest.approx([0.25, 0.75])
    assert volumes([box((0, 0)), box((1, 1))]).tolist() == [0.5, 0.5]


def test_wrong_shapes_are_refused():
    found = Property("p", 2, 3, (Case(box((0, 1), (0, 1)), (FIRST_IS_LEAST,)),))
    with pytest.raises(ValueError, match=r"inputs of p must be \(4, 2\), got \(4, 5\)"):
        found.margin(torch.zeros(4, 5), torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"outputs of p must be \(4, 3\), got \(3, 3\)"):
        found.margin(torch.zeros(4, 2), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="bounds must be finite in float32 with low <= high"):
        box((1, 0))
