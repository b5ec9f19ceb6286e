"""Quantised activations of `.pt2` programs: the numbers of `quantized_decomposed`, with gradients straight through."""

from typing import Any

import torch
from torch import Tensor

from repair.fixed_grids import Fixed, to_grid
from repair.integers.scales import scaled_gradient


class _FakeQuantize(torch.autograd.Function):
    """Round to a grid and back; the gradient passes inside the range and is 0 where the integer is clamped.

    Straight-through (Bengio et al., 2013), to the scale as LSQ has it (`repair.integers.scales`). In the order in
    which `torch.ao.quantization.fx._decomposed` computes, so that no bit differs: times the reciprocal of the scale,
    rounded half to even, plus the zero point, clamped. One function and not a chain of torch's own: it keeps one byte
    an activation instead of several floats where the scale is not trained.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Any, zero_point: Any, low: int, high: int) -> Tensor:
        trained = ctx.needs_input_grad[1]
        whole = x.mul(1.0 / (scale.double() if trained else scale)).round_().add_(zero_point)
        inside = (whole >= low) & (whole <= high)
        whole = whole.clamp_(low, high).sub_(zero_point)
        ctx.save_for_backward(inside, *([x, scale, whole.clone()] if trained else []))
        return whole.mul_(scale).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inside, *trained = ctx.saved_tensors
        slope = gradients[0] * inside
        if not trained:
            return slope, None, None, None, None
        x, scale, whole = trained
        step = (gradients[0] * whole - slope * x / scale).sum_to_size(scale.shape)
        return slope, step, None, None, None


def fake_quantize_per_tensor(x: Tensor, scale: float | Tensor, zero_point: int | Tensor, low: int, high: int) -> Tensor:
    """`x` on one grid, float32, same shape: what quantising it to integers in [low, high] and back gives.

    Scale and zero point are numbers, or tensors of one element where they are computed from the activation, or where
    the scale is trained.
    """
    if isinstance(zero_point, Tensor):
        zero_point = int(zero_point.item())
    if not isinstance(scale, Tensor):
        return to_grid(x.float(), Fixed(scale, zero_point, low, high, divides=False))
    scale = scaled_gradient(scale.reshape(()), x[:1].numel(), high) if scale.requires_grad else scale.item()
    return _FakeQuantize.apply(x.float(), scale, zero_point, low, high)


def fake_quantize_per_channel(x: Tensor, scales: Tensor, zero_points: Tensor, axis: int, low: int, high: int) -> Tensor:
    """`x` on one grid a slice of the axis, float32, same shape; scales and zero points are (size of the axis,)."""
    shape = [1] * x.ndim
    shape[axis] = -1
    return _FakeQuantize.apply(x.float(), scales.view(shape), zero_points.view(shape), low, high)
