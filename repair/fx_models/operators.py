"""What a quantised TorchScript program computes, in floats that lie on its grids, with gradients straight through.

A quantised tensor is `Rounded`. Integer kernels add products exactly and round once; here the products are added in
float32 and rounded once, so that a sum which lies within float32's error of the middle between two integers may go
to the other one.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from repair.fx_models.layers import Layer

TYPES = {12: (-128, 127), 13: (0, 255)}
"""Integers of an activation by TorchScript's number of its type: qint8 and quint8."""


class _Round(torch.autograd.Function):
    """Whole numbers, relative to the zero point, that are inside the grid; straight-through (Bengio et al., 2013).

    Half to even, of the number or, where `shifted`, of the number plus the zero point: torch's kernels do either. The
    gradient is that of the number inside the range and 0 where the integer is clamped.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, zero_point: int, low: int, high: int, shifted: bool) -> Tensor:
        whole = (value + zero_point).round_() if shifted else value.round().add_(zero_point)
        ctx.save_for_backward((whole >= low) & (whole <= high))
        return whole.clamp_(low, high).sub_(zero_point)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None, None


class Rounded(NamedTuple):
    """A quantised activation: whole numbers, which are its integers less the zero point, and their grid."""

    whole: Tensor
    scale: float
    zero_point: int
    low: int
    high: int

    @property
    def real(self) -> Tensor:
        """The numbers that the integers stand for, float32."""
        return self.whole * self.scale

    def averaged(self, whole: Tensor) -> "Rounded":
        """Means of whole numbers on this grid, to which they are rounded."""
        return self._replace(whole=_Round.apply(whole, self.zero_point, self.low, self.high, True))


class Weighted(NamedTuple):
    """A layer with the weights that it has now."""

    layer: Layer
    weight: Tensor
    bias: Tensor | None


def rounded(real: Tensor, scale: Any, zero_point: Any, low: int = 0, high: int = 255) -> Rounded:
    """Real numbers on a grid; scale and zero point are numbers or tensors of one."""
    step, zero = float(scale), int(zero_point)
    return Rounded(_Round.apply(real * (1 / step), zero, low, high, False), step, zero, low, high)


def _quantize(x: Tensor, scale: Any, zero_point: Any, kind: int) -> Rounded:
    return rounded(x, scale, zero_point, *TYPES[kind])


def _layer(x: Rounded, given: Weighted, scale: float, zero_point: int) -> Rounded:
    return rounded(_linear(x.real, given), scale, zero_point)


def _layer_relu(x: Rounded, given: Weighted, scale: float, zero_point: int) -> Rounded:
    return rounded(_linear(x.real, given).relu(), scale, zero_point)


def _linear(x: Tensor, given: Weighted) -> Tensor:
    if given.layer.kind == "linear":
        return F.linear(x, given.weight, given.bias)
    shape = given.layer.geometry
    return F.conv2d(x, given.weight, given.bias, shape["stride"], shape["padding"], shape["dilation"], shape["groups"])


def _grid_kept(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """The function of a tensor, or of a quantised one whose numbers it only moves or leaves out."""

    def apply(x: Any, *args: Any) -> Any:
        return x._replace(whole=function(x.whole, *args)) if isinstance(x, Rounded) else function(x, *args)

    return apply


def _grid_rounded(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """The function of a tensor, or of a quantised one to whose grid the result is rounded."""

    def apply(x: Any, *args: Any) -> Any:
        return x.averaged(function(x.whole, *args)) if isinstance(x, Rounded) else function(x, *args)

    return apply


_mean = _grid_rounded(torch.mean)


def _size(x: Any, dimension: int | None = None) -> Any:
    sizes = list((x.whole if isinstance(x, Rounded) else x).shape)
    return sizes if dimension is None else sizes[dimension]


_relu = _grid_kept(torch.relu)

OPERATORS: dict[str, Callable[..., Any]] = {
    "quantized::conv2d": _layer,
    "quantized::conv2d_relu": _layer_relu,
    "quantized::linear": _layer,
    "quantized::linear_relu": _layer_relu,
    "quantized::add": lambda a, b, scale, zero: rounded(a.real + b.real, scale, zero),
    "quantized::add_relu": lambda a, b, scale, zero: rounded((a.real + b.real).relu(), scale, zero),
    "aten::quantize_per_tensor": _quantize,
    "aten::dequantize": lambda x: x.real,
    "aten::relu": _relu,
    "aten::relu_": _relu,
    "aten::max_pool2d": _grid_kept(F.max_pool2d),
    "aten::avg_pool2d": _grid_rounded(F.avg_pool2d),
    "aten::adaptive_avg_pool2d": _grid_rounded(F.adaptive_avg_pool2d),
    "aten::flatten": _grid_kept(torch.flatten),
    "aten::reshape": _grid_kept(torch.reshape),
    "aten::view": _grid_kept(torch.reshape),
    "aten::contiguous": _grid_kept(lambda x, *layout: x.contiguous()),
    "aten::dropout": _grid_kept(lambda x, share, training: x),
    "aten::softmax": lambda x, dimension, kind: x.softmax(dimension),
    "aten::log_softmax": lambda x, dimension, kind: x.log_softmax(dimension),
    "aten::mean": lambda x, *args: _mean(x, *args[:2]),
}
"""Operators that a repair can go through, by TorchScript's name."""

NUMBERS: dict[str, Callable[..., Any]] = {
    "aten::size": _size,
    "aten::len": len,
    "aten::__getitem__": operator.getitem,
    "aten::eq": operator.eq,
    "aten::ne": operator.ne,
    "aten::lt": operator.lt,
    "aten::le": operator.le,
    "aten::gt": operator.gt,
    "aten::ge": operator.ge,
    "aten::FloatImplicit": float,
    "aten::IntImplicit": int,
    "prim::ListConstruct": lambda *values: list(values),
    "prim::TupleConstruct": lambda *values: tuple(values),
}
"""What TorchScript does beside them with sizes and settings."""
