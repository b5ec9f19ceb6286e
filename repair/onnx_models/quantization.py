"""ONNX's quantisation of activations, exactly as specified and with gradients straight through."""

from typing import Any

import torch
from torch import Tensor

from repair.fixed_grids import Fixed, to_integers
from repair.integers.scales import scaled_gradient
from repair.onnx_models.node import Node

RANGES = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767)}
"""Integers that an activation may be rounded to, by element type."""


class _Quantize(torch.autograd.Function):
    """saturate(round half even(x / scale) + zero point) as floats; the gradient is that of x / scale inside the range.

    Straight-through (Bengio et al., 2013), for the scale too: with what a dequantiser adds, LSQ's (`Rescaled`). One
    function and not a chain of torch's own: it is the inner loop of a repair, and keeps one byte per activation
    instead of several floats where the scale is not trained.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
        whole = x.div(scale).round_().add_(zero)
        trained = [x] if ctx.needs_input_grad[1] else []
        ctx.save_for_backward((whole >= low) & (whole <= high), scale, *trained)
        return whole.clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inside, scale, *trained = ctx.saved_tensors
        slope = gradients[0].div(scale).mul_(inside)
        step = -(slope * trained[0]).div(scale).sum_to_size(scale.shape) if trained else None
        return slope, step, None, None, None


def quantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Whole numbers in the range of the node's element type, as floats, same shape."""
    if node.get("element") not in RANGES:
        raise node.refuse(f"element type {node.get('element')}")
    low, high = RANGES[node.get("element")]
    single = scale.numel() == 1 and (zero is None or zero.numel() == 1)
    if single and not scale.requires_grad and x.device.type == "cpu" and x.dtype == torch.float32:
        return to_integers(x, Fixed(float(scale), 0 if zero is None else int(zero), low, high, divides=True))
    offset = scale.new_zeros(()) if zero is None else along_axis(node, zero, x)
    return _Quantize.apply(x, along_axis(node, _trained(node, scale, x), x), offset, low, high)


def dequantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Real values of whole numbers, (x - zero point) * scale."""
    scale = _trained(node, scale, x)
    return (x if zero is None else x - along_axis(node, zero, x)) * along_axis(node, scale, x)


def _trained(node: Node, scale: Tensor, x: Tensor) -> Tensor:
    """A scale with the gradient that LSQ gives it: counted are the numbers of one image."""
    return scaled_gradient(scale, x[:1].numel(), RANGES.get(node.get("element"), (0, 1))[1])


def along_axis(node: Node, values: Tensor, x: Tensor) -> Tensor:
    """Scales or zero points shaped so that they broadcast against `x`: one, or one per slice of the node's axis."""
    if values.numel() == 1:
        return values.reshape(())
    if values.ndim != 1 or node.get("block_size"):
        raise node.refuse("scales by block")
    shape = [1] * x.ndim
    shape[node.get("axis", 1)] = -1
    return values.view(shape)
