"""ONNX's quantisation of activations, exactly as specified and with gradients straight through."""

from typing import Any

import torch
from torch import Tensor

from repair.onnx_models.node import Node

RANGES = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767)}
"""Integers that an activation may be rounded to, by element type."""


class _Quantize(torch.autograd.Function):
    """saturate(round half even(x / scale) + zero point) as floats; the gradient is that of x / scale inside the range.

    Straight-through (Bengio et al., 2013). One function and not a chain of torch's own: it is the inner loop of a
    repair, and keeps one byte per activation instead of several floats.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
        whole = x.div(scale).round_().add_(zero)
        ctx.save_for_backward((whole >= low) & (whole <= high), scale)
        return whole.clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inside, scale = ctx.saved_tensors
        return gradients[0].div(scale).mul_(inside), None, None, None, None


def quantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Whole numbers in the range of the node's element type, as floats, same shape."""
    if node.get("element") not in RANGES:
        raise node.refuse(f"element type {node.get('element')}")
    low, high = RANGES[node.get("element")]
    offset = scale.new_zeros(()) if zero is None else along_axis(node, zero, x)
    return _Quantize.apply(x, along_axis(node, scale, x), offset, low, high)


def dequantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Real values of whole numbers, (x - zero point) * scale."""
    return (x if zero is None else x - along_axis(node, zero, x)) * along_axis(node, scale, x)


def along_axis(node: Node, values: Tensor, x: Tensor) -> Tensor:
    """Scales or zero points shaped so that they broadcast against `x`: one, or one per slice of the node's axis."""
    if values.numel() == 1:
        return values.reshape(())
    if values.ndim != 1 or node.get("block_size"):
        raise node.refuse("scales by block")
    shape = [1] * x.ndim
    shape[node.get("axis", 1)] = -1
    return values.view(shape)
