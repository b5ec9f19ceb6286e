"""Weights of one or two bits in float files: a sign or a small integer times a scale, recognised, kept and trained.

XNOR-Net (M. Rastegari et al., ECCV 2016) stores a sign and a scale, ternary weight networks (F. Li et al., 2016) a
sign or nothing and a scale. Files hold the products as ordinary floats; which values these are is what is kept.
"""

from typing import Any

import torch
from torch import Tensor, fx, nn

from repair.compression import Projection, zeros_stay_zero

REACH = 0.5
"""Share of the scale that a latent weight travels before its sign turns; measured, see docs/compression.md."""

EVIDENCE = 8
"""Weights that must repeat a magnitude before few values count as meant: small layers may hold anything."""


class _StraightThrough(torch.autograd.Function):
    """What the latent weights are projected to; the gradient is theirs while they stay within [low, high], low < high.

    Straight-through (Bengio et al., 2013). Beyond the range it passes only where it leads back in: what BinaryConnect
    (M. Courbariaux et al., NIPS 2015) reaches by clipping the weights, so that none is lost for good outside.
    """

    @staticmethod
    def forward(ctx: Any, latent: Tensor, projected: Tensor, low: Tensor, high: Tensor) -> Tensor:
        ctx.save_for_backward(latent < low, latent > high, low == high)
        return projected.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        below, above, empty = ctx.saved_tensors
        (slope,) = gradients
        outward = (below & (slope > 0)) | (above & (slope < 0))  # descent goes against the slope
        return slope.masked_fill(outward | empty, 0), None, None, None


class Signs(nn.Module):
    """-scale or +scale, whichever side of its boundary the latent weight lies on; 0 where the scale is.

    `scale` (>= 0) broadcasts against the weight and is kept. `came` is the weight as stored, of -scale and +scale: the
    boundary of each lies `REACH` * scale from it on the way to the other value, in place of in the middle, so that
    a sign turns after half the way. Both values are fixed points wherever the boundary lies.
    """

    def __init__(self, scale: Tensor, came: Tensor) -> None:
        super().__init__()
        self.scale: Tensor
        self.boundary: Tensor
        self.register_buffer("scale", scale)
        self.register_buffer("boundary", (1 - REACH) * came.detach())

    def forward(self, weight: Tensor) -> Tensor:
        latent = weight - self.boundary
        nearer = torch.where(latent >= 0, self.scale, -self.scale)
        signs = torch.where(latent.isnan(), latent, nearer)
        return _StraightThrough.apply(latent, torch.where(self.scale > 0, signs, weight * 0), -self.scale, self.scale)


class Ternary(nn.Module):
    """The nearest of -scale, 0 and +scale; `scale` (>= 0) broadcasts against the weight and is kept.

    A boundary lies half a scale from every value, so that weights turn as soon as those of `Signs`.
    """

    low = -1

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.scale: Tensor
        self.register_buffer("scale", scale)

    def forward(self, weight: Tensor) -> Tensor:
        step = torch.where(self.scale > 0, self.scale, 1)
        nearest = (weight / step).round().clamp(self.low, 1) * self.scale
        return _StraightThrough.apply(weight, nearest, self.low * self.scale, self.scale)


class TwoBits(Ternary):
    """The nearest of -2 * scale, -scale, 0 and +scale: two bits in two's complement."""

    low = -2


def as_found(model: nn.Module) -> dict[str, Projection]:
    """What float weights keep, as found: few values where they have them, else the zeros that they have."""
    return {**zeros_stay_zero(model), **few_values(model)}


def few_values(model: nn.Module) -> dict[str, Projection]:
    """Parameter name -> the values that its weights have, where they are of one or two bits."""
    found = {name: recognised(weight.detach()) for name, weight in model.named_parameters()}
    return {name: projection for name, projection in found.items() if projection is not None}


def recognised(weight: Tensor) -> Projection | None:
    """The projection to the few values that a weight of two or more dimensions has, float32 and exactly.

    One scale for the tensor, else one for each slice of its first dimension, else of its second (matrices stored
    with inputs first). Slices of zeros have the scale 0 and stay. None where values repeat too seldom to be meant
    (fewer than `EVIDENCE` times, or fewer than twice a scale) and where all have one sign, as those of averages do.
    """
    if weight.ndim < 2 or weight.dtype != torch.float32 or not bool(weight.isfinite().all()):
        return None
    if not (bool((weight > 0).any()) and bool((weight < 0).any())):
        return None
    for axis in (None, 0, 1):
        scale = _scale(weight, axis)
        zero, double = (weight == 0) & (scale > 0), weight == -2 * scale
        on_values = (weight.abs() == scale) | zero | (double & (scale > 0))
        repeats = int((weight != 0).sum()) - int((scale > 0).sum())
        if bool(on_values.all()) and repeats >= max(EVIDENCE, int((scale > 0).sum())):
            if bool((double & (scale > 0)).any()):
                return TwoBits(scale)
            return Ternary(scale) if bool(zero.any()) else Signs(scale, weight)
    return None


def _scale(weight: Tensor, axis: int | None) -> Tensor:
    """The step of each slice if it has few values: its greatest number, without positive ones the nearest to zero."""
    every = tuple(dimension for dimension in range(weight.ndim) if dimension != axis)
    greatest = weight.amax(every, keepdim=True)
    least = torch.where(weight == 0, torch.inf, weight.abs()).amin(every, keepdim=True)
    return torch.where(greatest > 0, greatest, torch.where(least.isinf(), 0, least))


class _Sign(torch.autograd.Function):
    """-1, 0 or 1; the gradient of clamp(x, -1, 1) (I. Hubara et al., "Binarized neural networks", NIPS 2016)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.abs() <= 1)
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside


def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1 like `torch.sign`, float, same shape, with a gradient of 1 where |x| <= 1 in place of none."""
    return _Sign.apply(x)


def lead_through_signs(graph: fx.GraphModule) -> None:
    """Let gradients through the signs that a graph takes of its activations, which answer as they did."""
    nodes = [node for node in graph.graph.nodes if node.target is torch.ops.aten.sign.default]
    for node in nodes:
        node.target = sign
    if nodes:
        graph.recompile()
