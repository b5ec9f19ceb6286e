"""Quantised activations of `.pt2` programs: the numbers of `quantized_decomposed`, with gradients straight through."""

from typing import Any

import torch
from torch import Tensor


class _FakeQuantize(torch.autograd.Function):
    """Round to a grid and back; the gradient passes inside the range and is 0 where the integer is clamped.

    Straight-through (Bengio et al., 2013). In the order in which `torch.ao.quantization.fx._decomposed` computes, so
    that no bit differs: times the reciprocal of the scale, rounded half to even, plus the zero point, clamped. One
    function and not a chain of torch's own: it keeps one byte an activation instead of several floats.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Any, zero_point: Any, low: int, high: int) -> Tensor:
        whole = x.mul(1.0 / scale).round_().add_(zero_point)
        ctx.save_for_backward((whole >= low) & (whole <= high))
        return whole.clamp_(low, high).sub_(zero_point).mul_(scale).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None, None


def fake_quantize_per_tensor(x: Tensor, scale: float | Tensor, zero_point: int | Tensor, low: int, high: int) -> Tensor:
    """`x` on one grid, float32, same shape: what quantising it to integers in [low, high] and back gives.

    Scale and zero point are numbers, or tensors of one element where they are computed from the activation.
    """
    if isinstance(scale, Tensor):
        scale = scale.item()
    if isinstance(zero_point, Tensor):
        zero_point = int(zero_point.item())
    return _FakeQuantize.apply(x.float(), scale, zero_point, low, high)


def fake_quantize_per_channel(x: Tensor, scales: Tensor, zero_points: Tensor, axis: int, low: int, high: int) -> Tensor:
    """`x` on one grid a slice of the axis, float32, same shape; scales and zero points are (size of the axis,)."""
    shape = [1] * x.ndim
    shape[axis] = -1
    return _FakeQuantize.apply(x.float(), scales.view(shape), zero_points.view(shape), low, high)
