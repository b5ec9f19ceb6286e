"""Packed weights of torch.ao's quantised layers: taken apart, and put together with other integers."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from repair.compression import Quantized

KINDS = {"Conv2dPackedParamsBase": "conv2d", "LinearPackedParamsBase": "linear"}
"""Class of packed weights in TorchScript -> layer."""

GEOMETRY = ("stride", "padding", "dilation", "groups")
"""What a packed convolution says of itself, by the names of its readers."""


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings that quantised tensors and TorchScript are to go: files of them are what is opened here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*(quantize|torch\.ao|`torch\.jit\.\w+` is ).*")
        yield


@dataclass(frozen=True)
class Layer:
    """A layer with int8 weights as it lies in a file. Layers are equal when all but weights and biases are."""

    path: str  # of the packed weights in the program, by attributes
    kind: str  # conv2d or linear
    geometry: dict[str, Any]  # of a convolution
    scales: tuple[float, ...]  # one, or one an output channel
    zero_points: tuple[int, ...]
    shape: tuple[int, ...]  # of the weight
    biased: bool
    integers: Tensor = field(compare=False, repr=False)  # the weight's, int8
    bias: Tensor | None = field(compare=False, repr=False)  # (output channels,) float32

    @property
    def names(self) -> list[str]:
        """What the weight and, where there is one, the bias are called as parameters."""
        place = self.path.removesuffix("._packed_params").removesuffix("._packed_params").replace(".", "_")
        return [f"{place}_weight", f"{place}_bias"][: 1 + self.biased]

    def grid(self) -> Quantized:
        """The integers that the weight may be, of which fbgemm and QNNPACK use all of int8."""
        shape = [-1, *[1] * (len(self.shape) - 1)] if len(self.scales) > 1 else []
        scale, zero = torch.tensor(self.scales), torch.tensor(self.zero_points, dtype=torch.float32)
        return Quantized(scale.reshape(shape), zero.reshape(shape), -128, 127)

    def weight(self) -> Tensor:
        """The real numbers that the integers stand for, float32."""
        grid = self.grid()
        return (self.integers.float() - grid.zero_point) * grid.scale


def unpacked(path: str, packed: Any) -> Layer | None:
    """The layer of packed weights that lie at a path of a program; None for those of another kind."""
    kind = KINDS.get(str(packed._type()).rpartition(".")[2])
    if kind is None:
        return None
    with quiet():
        weight, bias = getattr(torch.ops.quantized, f"{kind}_unpack")(packed)
        names = GEOMETRY if kind == "conv2d" else ()
        geometry = {name: getattr(torch.ops.quantized, f"conv2d_{name}")(packed) for name in names}
        integers = weight.int_repr()
        if weight.dtype != torch.qint8:
            return None
        if weight.qscheme() == torch.per_tensor_affine:
            scales, zeros = (weight.q_scale(),), (weight.q_zero_point(),)
        elif weight.qscheme() == torch.per_channel_affine and weight.q_per_channel_axis() == 0:
            scales = tuple(weight.q_per_channel_scales().tolist())
            zeros = tuple(weight.q_per_channel_zero_points().tolist())
        else:
            return None
    return Layer(path, kind, geometry, scales, zeros, tuple(weight.shape), bias is not None, integers, bias)


def packed(layer: Layer, integers: Tensor, bias: Tensor | None) -> Any:
    """The layer's packed weights with other integers, int8 of its shape, and another bias."""
    scales, zeros = torch.tensor(layer.scales, dtype=torch.float64), torch.tensor(layer.zero_points)
    with quiet():
        if len(layer.scales) > 1:
            weight = torch._make_per_channel_quantized_tensor(integers, scales, zeros, 0)
        else:
            weight = torch._make_per_tensor_quantized_tensor(integers, layer.scales[0], layer.zero_points[0])
        rest = [layer.geometry[name] for name in GEOMETRY] if layer.kind == "conv2d" else []
        return getattr(torch.ops.quantized, f"{layer.kind}_prepack")(weight, bias, *rest)
