"""Rounding to a fixed grid in few passes: not a bit differs from comparing, masking and clamping step by step."""

import itertools

import pytest
import torch
from torch import Tensor

from repair.fixed_grids import Fixed, ends, to_grid, to_integers

SCALES = (0.1, 1 / 255, 3.7e-5, 2.0, float(torch.tensor(0.023)))
GRIDS = [
    Fixed(scale, zero, low, high, divides)
    for scale, (low, high), zero, divides in itertools.product(
        SCALES, ((-128, 127), (0, 255), (0, 65535), (-32768, 32767)), (0, -7, 100), (True, False)
    )
]


def numbers(grid: Fixed) -> Tensor:
    """Numbers all over the range, half-way between integers near its ends, the ends, and the neighbours of all."""
    generator = torch.Generator().manual_seed(0)
    spread = (torch.rand(300, generator=generator) * 1.4 - 0.2) * (grid.high - grid.low) + grid.low - grid.zero
    near = torch.arange(-4, 5) + 0.5
    halves = torch.cat([near + grid.low - grid.zero, near + grid.high - grid.zero])
    known = torch.cat([torch.cat([spread, halves]) * grid.scale, torch.tensor([*ends(grid), 0.0, 1e30, -1e30])])
    infinity = torch.tensor(torch.inf)
    return torch.cat([known, torch.nextafter(known, infinity), torch.nextafter(known, -infinity)])


def step_by_step(x: Tensor, grid: Fixed) -> tuple[Tensor, Tensor]:
    """The integers, and which of them are in range before they are clamped."""
    whole = (x.div(grid.scale) if grid.divides else x.mul(1.0 / grid.scale)).round() + grid.zero
    return whole.clamp(grid.low, grid.high), (whole >= grid.low) & (whole <= grid.high)


@pytest.mark.parametrize("real", [True, False])
def test_numbers_and_gradients_are_those_of_a_mask(real: bool) -> None:
    for grid in GRIDS:
        x = numbers(grid).requires_grad_()
        slope = torch.linspace(-1, 1, len(x))
        answer = (to_grid if real else to_integers)(x, grid)
        answer.backward(slope)
        whole, inside = step_by_step(x.detach(), grid)
        assert torch.equal(answer, (whole - grid.zero) * grid.scale if real else whole), grid
        assert torch.equal(x.grad, (slope if real else slope / grid.scale) * inside), grid


def test_the_ends_are_the_last_numbers_outside() -> None:
    """Known by hand: halves round to the even neighbour, so -0.5 is still 0 and 255.5 is already 256."""
    low, high = ends(Fixed(1.0, 0, 0, 255, divides=True))
    assert low == torch.nextafter(torch.tensor(-0.5), torch.tensor(-1.0)).item()
    assert high == 255.5


def test_a_wrong_end_shows() -> None:
    """With the ends one float further out the gradient of the end itself would pass."""
    grid = GRIDS[0]
    x = torch.tensor(ends(grid), requires_grad=True)
    to_grid(x, grid).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0]
    inner = torch.tensor([torch.nextafter(x[0], x[1]).item(), torch.nextafter(x[1], x[0]).item()], requires_grad=True)
    to_grid(inner, grid).sum().backward()
    assert inner.grad is not None
    assert inner.grad.tolist() == [1, 1]
