"""Which tensors of an ONNX graph are rounded to integers on their way, and on which grids."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, numpy_helper

from dflare.errors import InputError
from repair.onnx_models.node import QUANTIZERS
from repair.onnx_models.quantization import RANGES


@dataclass(frozen=True)
class Activation:
    """A tensor that `QuantizeLinear` rounds and `DequantizeLinear` makes real again, per tensor."""

    name: str  # of the real numbers before they are rounded
    rounded: str  # of the integers
    quantizer: int  # number of the node in the graph
    readers: tuple[int, ...]  # numbers of the nodes that make them real again
    grid: tuple[str, str]  # names of scale and zero point, "" for no zero point
    scale: float
    zero: int
    element: str  # uint8, int8, uint16 or int16

    @property
    def nodes(self) -> tuple[int, ...]:
        return self.quantizer, *self.readers

    @property
    def ends(self) -> tuple[float, float]:
        """Least and greatest real number on the grid."""
        low, high = RANGES[self.element]
        return (low - self.zero) * self.scale, (high - self.zero) * self.scale


def find_activations(model: ModelProto) -> list[Activation]:
    """The activations whose grids can be changed, in the order of the graph.

    Left out are those whose integers something else than `DequantizeLinear` reads on the same grid, or the graph
    returns; scales that are computed or are several; and tensors that are rounded in two ways.
    """
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    readers: dict[str, list[int]] = {}
    for number, node in enumerate(model.graph.node):
        for name in node.input:
            readers.setdefault(name, []).append(number)
    returned = {output.name for output in model.graph.output}
    found: dict[str, list[Activation]] = {}
    for number, node in enumerate(model.graph.node):
        if node.op_type == "QuantizeLinear" and node.input[0] not in stored and node.output[0] not in returned:
            activation = _activation(model, number, readers.get(node.output[0], []), stored)
            if activation is not None:
                found.setdefault(activation.name, []).append(activation)
    return [one[0] for one in found.values() if len(one) == 1]


def grids(model: ModelProto) -> list[tuple[str, ...]]:
    """The activations' names, those that share scale and zero point together: what is widened together.

    A pooling or reshaping between two quantisers shares its input's grid, and is worth nothing alone.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for activation in find_activations(model):
        groups.setdefault(activation.grid, []).append(activation.name)
    return [tuple(names) for names in groups.values()]


def named(model: ModelProto, tensors: Any) -> list[Activation]:
    """The activations of these names, in the order of the graph; raises `InputError` for unknown ones."""
    if isinstance(tensors, str):
        raise InputError(f"tensors must be a collection of names, got the one string {tensors!r}")
    found = {activation.name: activation for activation in find_activations(model)}
    unknown = sorted(set(tensors) - set(found))
    if unknown:
        known = ", ".join(found) or "none"
        raise InputError(f"tensors must be quantised activations with grids of their own ({known}), got {unknown[0]!r}")
    return [activation for name, activation in found.items() if name in set(tensors)]


def _activation(model: ModelProto, number: int, readers: list[int], stored: dict[str, np.ndarray]) -> Activation | None:
    nodes = [model.graph.node[i] for i in (number, *readers)]
    grid = [*nodes[0].input[1:], ""][:2]
    if any(node.op_type not in QUANTIZERS for node in nodes) or any(node.attribute and _blocks(node) for node in nodes):
        return None
    if not readers or any(_value(node.input[1:], stored) != _value(grid, stored) for node in nodes):
        return None
    value = _value(grid, stored)
    if value is None:
        return None
    names = (grid[0], grid[1])
    return Activation(nodes[0].input[0], nodes[0].output[0], number, tuple(readers), names, *value)


def _blocks(node: Any) -> bool:
    """Whether a quantiser says more than along which axis: block sizes and element types of its own."""
    return any(each.name in ("block_size", "output_dtype") and each.i for each in node.attribute)


def _value(grid: Any, stored: dict[str, np.ndarray]) -> tuple[float, int, str] | None:
    """Scale, zero point and element type of a stored grid per tensor; None for any other."""
    scale_name, zero_name = [*grid, ""][:2]
    scale, zero = stored.get(scale_name), stored.get(zero_name) if zero_name else np.uint8(0)
    if scale is None or zero is None or scale.size != 1 or zero.size != 1 or str(zero.dtype) not in RANGES:
        return None
    if scale.dtype != np.float32 or not float(scale.item()) > 0:
        return None
    return float(scale.item()), int(zero.item()), str(zero.dtype)
