"""Straight-through quantisation gives the numbers of torch's own operators, and the gradients that are promised."""

import pytest
import torch
from torch import Tensor

from dflare.models.exported import _register_int8_operators
from repair.pt2_models.fake_quantize import fake_quantize_per_channel, fake_quantize_per_tensor

_register_int8_operators()
OPERATORS = torch.ops.quantized_decomposed

GRIDS = [
    (0.003919653594493866, 0, torch.uint8),
    (0.0371, 131, torch.uint8),
    (0.1, -5, torch.int8),
    (1e-4, 0, torch.int16),
    (3.3e-5, 30000, torch.uint16),
]


def numbers(scale: float, zero_point: int, low: int, high: int) -> Tensor:
    """Values in the range and beyond, and all the halves between the grid's first hundred levels."""
    generator = torch.Generator().manual_seed(0)
    ends = torch.tensor([low - zero_point, high - zero_point]) * scale
    spread = torch.rand(20_000, generator=generator) * 1.5 * (ends[1] - ends[0]) + ends[0] - 0.25 * (ends[1] - ends[0])
    halves = (torch.arange(200) - 100.5) * scale
    return torch.cat([spread, halves, torch.tensor([0.0, -0.0, 1e30, -1e30, float("inf"), -float("inf")])])


def through_integers(x: Tensor, scale: float, zero_point: int, low: int, high: int, dtype: torch.dtype) -> Tensor:
    integers = OPERATORS.quantize_per_tensor(x, scale, zero_point, low, high, dtype)
    return OPERATORS.dequantize_per_tensor(integers, scale, zero_point, low, high, dtype)


@pytest.mark.parametrize(("scale", "zero_point", "dtype"), GRIDS)
def test_one_grid_a_tensor_gives_the_operators_numbers_bit_for_bit(scale, zero_point, dtype):
    low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    x = numbers(scale, zero_point, low, high)
    expected = through_integers(x, scale, zero_point, low, high, dtype)
    assert torch.equal(fake_quantize_per_tensor(x, scale, zero_point, low, high), expected)
    computed = torch.tensor([scale], dtype=torch.float64), torch.tensor([zero_point])
    assert torch.equal(fake_quantize_per_tensor(x, *computed, low, high), expected)


def test_dividing_by_the_scale_would_be_seen_to_differ():
    scale, zero_point, dtype = GRIDS[1]
    x = numbers(scale, zero_point, 0, 255)
    divided = ((x / scale).round() + zero_point).clamp(0, 255).sub(zero_point).mul(scale)
    assert not torch.equal(divided, through_integers(x, scale, zero_point, 0, 255, dtype))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_one_grid_a_channel_gives_the_operators_numbers_bit_for_bit(axis, precision):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 4, 50, 4, generator=generator) * 3
    grid = torch.tensor([0.01, 0.0271, 0.03, 0.0078], dtype=precision), torch.tensor([0, 3, -100, 7])
    integers = OPERATORS.quantize_per_channel(x, *grid, axis, -128, 127, torch.int8)
    expected = OPERATORS.dequantize_per_channel(integers, *grid, axis, -128, 127, torch.int8)
    assert torch.equal(fake_quantize_per_channel(x, *grid, axis, -128, 127), expected)


def test_the_gradient_passes_inside_the_range_and_is_zero_outside():
    # levels (0 … 3 - 1) * 0.5 = -0.5 … 1.0; what rounds to a level is inside, whatever rounds beyond is clamped
    x = torch.tensor([-9.0, -0.76, -0.74, -0.5, 0.1, 1.0, 1.24, 1.26, 9.0], requires_grad=True)
    answer = fake_quantize_per_tensor(x, 0.5, 1, 0, 3)
    assert answer.tolist() == [-0.5, -0.5, -0.5, -0.5, 0.0, 1.0, 1.0, 1.0, 1.0]
    answer.backward(torch.arange(1.0, 10.0))
    assert x.grad.tolist() == [0, 0, 3, 4, 5, 6, 7, 0, 0]


def test_each_channel_has_its_own_range():
    x = torch.tensor([[0.9, 1.6], [0.9, 1.6]], requires_grad=True)
    scales, zeros = torch.tensor([1.0, 0.5]), torch.tensor([0, 0])
    fake_quantize_per_channel(x, scales, zeros, 0, 0, 2).sum().backward()
    assert x.grad.tolist() == [[1, 1], [1, 0]]  # up to 2.0 and up to 1.0


def test_inside_the_range_gradients_are_the_float_twins():
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.rand(8, 5, generator=generator), torch.randn(3, 5, generator=generator)
    gradients = []
    for quantise in (True, False):
        moving = weight.clone().requires_grad_()
        scores = x @ moving.T
        if quantise:
            scores = fake_quantize_per_tensor(scores, 0.1, 128, 0, 255)  # -12.8 … 12.7: nothing is clamped
        (scores * torch.arange(3)).sum().backward()
        gradients.append(moving.grad)
    assert torch.equal(*gradients)
