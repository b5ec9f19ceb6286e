"""Learned scales (LSQ): the step of a grid as something that is trained, with the integers that follow it.

S. K. Esser et al., "Learned step size quantization" (ICLR 2020). The scale of an activation at a fixed zero point is
its clipping limit, so that training it alone is FitAct (B. Ghavami et al., DATE 2022) for quantised models.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from repair.compression import Plan, Quantized


class Scale(nn.Module):
    """A scale that is trained: the latent is the logarithm of what the scale that came in is multiplied by.

    Scales differ by orders of magnitude and are never negative: one step of an optimiser changes each by the same
    share, and none can reach zero. A latent of 0 gives the scale that came in, to the bit.
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.start: Tensor
        self.register_buffer("start", start)

    def forward(self, latent: Tensor) -> Tensor:
        return self.start * latent.exp()


class Rescaled(Quantized):
    """A grid whose scale is trained: `factor` times the product of the scales that it follows.

    `followed`: name -> scale as it came in, one number or one a slice. A weight follows its own scale, an int32 bias
    those of its layer's input and weight, whose product its own was and stays: kernels that add it to their integer
    sums read it so. A plan calls it with these scales, in order, behind the weight.

    A weight that is trained too is a real number, which the grid rounds wherever it lies (LSQ); one that is frozen
    keeps its integers where `gain` says so, and its scale becomes a factor of its slice. A bias keeps its value.
    """

    def __init__(self, grid: Quantized, followed: Mapping[str, Tensor], gain: bool) -> None:
        super().__init__(grid.scale, grid.zero_point, grid.low, grid.high)
        self.follows, self.gain = tuple(followed), gain
        product = self._product(list(followed.values()))
        self.factor: Tensor
        self.register_buffer("factor", grid.scale.double() / product)

    def grid(self, *scales: Tensor) -> Quantized:
        """The grid at these scales."""
        scale = (self._product(list(scales)) * self.factor).float()  # in float64, so that nothing moved is nothing
        return Quantized(scale, self.zero_point, self.low, self.high)

    def forward(self, weight: Tensor, *scales: Tensor) -> Tensor:
        if not scales:
            return super().forward(weight)
        grid = self.grid(*scales)
        count = weight.numel() // grid.scale.numel()
        scale = scaled_gradient(grid.scale, count, self.high)
        if self.gain and not weight.requires_grad:
            return (self.integers(weight) - self.zero_point) * scale
        rounded: Tensor = _Stepped.apply(weight, scale, self.zero_point, self.low, self.high)
        return rounded

    def _product(self, scales: list[Tensor]) -> Tensor:
        shaped = [each.double().reshape(self.scale.shape if each.numel() > 1 else ()) for each in scales]
        return torch.stack([each.expand(self.scale.shape) for each in shaped]).prod(0)


def at_scales(plan: Plan, scales: Mapping[str, Tensor]) -> Plan:
    """What a plan says of weights once scales, by parameter name, have these values; scales themselves are left out."""
    return {
        name: each.grid(*(scales[other] for other in each.follows)) if isinstance(each, Rescaled) else each
        for name, each in plan.items()
        if name not in scales
    }


class _Stepped(torch.autograd.Function):
    """(integer - zero point) * scale with the gradients of LSQ's equations 3 and 5.

    To the weight it passes straight through inside the range and is 0 outside. To the scale, with v = weight / scale:
    integer - zero point - v inside, the range's end - zero point outside, summed over what shares the scale.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
        whole = Quantized(scale, zero, low, high).integers(weight) - zero
        ctx.save_for_backward(weight, scale, zero, whole)
        ctx.ends = low, high
        return whole * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale, zero, whole = ctx.saved_tensors
        low, high = ctx.ends
        ratio = weight / scale
        inside = (ratio >= low - zero) & (ratio <= high - zero)
        step = (gradients[0] * (whole - ratio * inside)).sum_to_size(scale.shape)
        return gradients[0] * inside, step, None, None, None


def scaled_gradient(scale: Tensor, count: int, high: int) -> Tensor:
    """The scale itself, with a gradient multiplied by 1 / sqrt(count * high) (section 2.2 of LSQ).

    `count` numbers share it (of one image, for an activation), `high` is the largest integer. Adam divides by the
    gradient's size, so under it this only weighs the places against each other that share a scale.
    """
    if not scale.requires_grad:
        return scale
    factor = 1 / math.sqrt(max(1, count) * max(1, high))
    return scale.detach() + (scale - scale.detach()) * factor
