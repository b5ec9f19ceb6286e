"""Rounding activations to the integers of one fixed grid, with gradients straight through: the inner loop of a repair.

A chain of torch's own operators (compare, compare, and, multiply by a mask) takes four times as long, as booleans are
what its kernels for processors are slow at.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Fixed(NamedTuple):
    """A grid of whole numbers that nothing trains."""

    scale: float  # > 0
    zero: int  # the whole number that stands for 0
    low: int  # the least whole number
    high: int
    divides: bool  # whether numbers are divided by the scale, as ONNX has it, or multiplied by 1 / scale, as torch has


def to_integers(x: Tensor, grid: Fixed) -> Tensor:
    """round half even(x / scale) + zero, clamped, float32, same shape.

    The gradient is that of x / scale where the unclamped integer is in range, else 0 (Bengio et al., 2013).
    """
    result: Tensor = _Rounded.apply(x, grid, False)
    return result


def to_grid(x: Tensor, grid: Fixed) -> Tensor:
    """The real numbers that stand for `to_integers`, float32, same shape; the gradient is 1 in range, else 0."""
    result: Tensor = _Rounded.apply(x, grid, True)
    return result


class _Rounded(torch.autograd.Function):
    """Keeps `x` itself, which the operator before it mostly keeps anyway, and where in `x` the range begins and ends.

    So the gradient is one pass of a kernel that torch has for another purpose (Hardtanh's), and not a bit of it differs
    from that of a mask, because the ends are found by trying.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Fixed, real: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.grid, ctx.real = grid, real
        whole = _steps(x, grid).round_().clamp_(grid.low - grid.zero, grid.high - grid.zero)
        return whole.mul_(grid.scale) if real else whole.add_(grid.zero)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        slope = gradients[0] if ctx.real else gradients[0].div(ctx.grid.scale)
        return torch.ops.aten.hardtanh_backward(slope, x, *ends(ctx.grid)), None, None


def _steps(x: Tensor, grid: Fixed) -> Tensor:
    return x.div(grid.scale) if grid.divides else x.mul(1.0 / grid.scale)


@lru_cache(maxsize=4096)
def ends(grid: Fixed) -> tuple[float, float]:
    """The greatest float32 that rounds to less than `low`, and the least one that rounds to more than `high`."""

    def above(limit: int) -> Callable[[float], bool]:
        return lambda x: bool(_steps(torch.tensor(x), grid).round() > limit)

    return -_least(above(grid.zero - grid.low)), _least(
        above(grid.high - grid.zero)
    )  # rounding half to even is symmetric


def _least(holds: Callable[[float], bool]) -> float:
    """The least float32 for which something holds that holds for all greater ones, by bisection; infinity if none."""
    under, over = _place(-np.float32(np.inf)), _place(np.float32(np.inf))
    while over - under > 1:
        middle = (under + over) // 2
        under, over = (under, middle) if holds(float(_number(middle))) else (middle, over)
    return float(_number(over))


def _place(number: np.float32) -> int:
    """Where a float32 stands among all in order."""
    bits = int(number.view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _number(place: int) -> np.float32:
    number = np.int32(abs(place)).view(np.float32)
    return np.float32(number if place >= 0 else -number)
