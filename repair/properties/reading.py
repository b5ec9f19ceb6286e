"""ONNX graphs that are chains of linear layers and activations, read as `DenseNetwork`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from dflare.errors import InputError
from repair.properties.dense import ACTIVATIONS, PRELUDE, Activation, DenseNetwork

PASSES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Dropout")
"""Operators that leave the numbers of their first input in order."""

KNOWN = ("MatMul", "Gemm", *PRELUDE, *ACTIVATIONS, *PASSES)


@dataclass(frozen=True)
class Stored:
    """The initialiser that keeps a parameter, and whether it keeps the transpose."""

    name: str
    transposed: bool = False


@dataclass
class _Layer:
    weight: TensorProto
    transposed: bool  # stored as (from, to)
    bias: TensorProto | None = None
    activation: Activation = field(default_factory=Activation)


def read_chain(model: ModelProto, path: Path) -> tuple[DenseNetwork, dict[str, Stored]]:
    """The network of a graph, and where its parameters are kept, by parameter name.

    Raises `InputError` for a graph that is no chain of linear layers with one activation each, and for weights that
    are not float32 initialisers of their own.
    """
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in stored]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise InputError(f"{path} must take one input and return one output, got {len(inputs)} and {len(graph.output)}")
    reading = _Reading(path, stored, _constants(model), inputs[0], [], [])
    for node in graph.node:
        if node.op_type != "Constant":
            reading.take(node)
    if reading.value != graph.output[0].name or not reading.layers:
        raise InputError(f"{path} must be a chain of linear layers up to its output {graph.output[0].name!r}")
    return _network(reading.layers, reading.prelude, path)


@dataclass
class _Reading:
    """A graph on the way to a network: what has been taken in up to `value`."""

    path: Path
    stored: dict[str, TensorProto]  # initialisers by name
    constants: dict[str, TensorProto]  # and constants, which cannot be weights
    value: str
    layers: list[_Layer]
    prelude: list[tuple[str, Tensor]]

    def take(self, node: NodeProto) -> None:
        """One more operator, which must read the one before."""
        others = [name for name in node.input if name and name != self.value]
        if len(others) != len([name for name in node.input if name]) - 1:
            raise self.refuse(node, "an operator that reads only the one before")
        kind, last = node.op_type, self.layers[-1] if self.layers else None
        first = node.input[0] == self.value
        if kind in ("MatMul", "Gemm") and first:
            self.layers.append(self.linear(node, others))
        elif kind in ACTIVATIONS and last and not last.activation.name:
            last.activation = Activation(kind, tuple(sorted(_settings(node).items())))
        elif kind == "Add" and last and last.bias is None and not last.activation.name:
            last.bias = self.weight(node, others[0])
        elif kind in PRELUDE and not last and (first or kind in ("Add", "Mul")):
            self.prelude.append((kind, self.constant(node, others[0])))
        elif kind not in PASSES:
            raise self.refuse(node, f"linear layers with one activation each, of {', '.join(KNOWN)}")
        self.value = node.output[0]

    def linear(self, node: NodeProto, others: Sequence[str]) -> _Layer:
        settings = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0} | _settings(node)
        if (settings["alpha"], settings["beta"], settings["transA"]) != (1, 1, 0):
            raise self.refuse(node, "inputs times weights plus bias, without factors")
        bias = self.weight(node, others[1]) if len(others) > 1 else None
        return _Layer(self.weight(node, others[0]), not settings["transB"], bias)

    def weight(self, node: NodeProto, name: str) -> TensorProto:
        if name not in self.stored or self.stored[name].data_type != TensorProto.FLOAT:
            raise self.refuse(node, f"weights in a float32 initialiser, and {name!r} is none")
        return self.stored[name]

    def constant(self, node: NodeProto, name: str) -> Tensor:
        found = self.stored.get(name, self.constants.get(name))
        if found is None:
            raise self.refuse(node, f"a stored number, and {name!r} is none")
        return torch.from_numpy(numpy_helper.to_array(found).copy()).float().reshape(-1)

    def refuse(self, node: NodeProto, wanted: str) -> InputError:
        name = f"node {node.name or node.output[0]!r} ({node.op_type})"
        return InputError(f"{self.path}, {name}: expected {wanted}; such a network cannot be repaired by properties")


def _network(
    layers: Sequence[_Layer], prelude: Sequence[tuple[str, Tensor]], path: Path
) -> tuple[DenseNetwork, dict[str, Stored]]:
    places: dict[str, Stored] = {}
    linears: list[nn.Linear] = []
    for index, layer in enumerate(layers):
        weight = _numbers(layer.weight)
        weight = weight.T.contiguous() if layer.transposed else weight
        bias = None if layer.bias is None else _numbers(layer.bias).reshape(-1)
        reads = linears[-1].out_features if linears else weight.shape[-1]
        if weight.ndim != 2 or weight.shape[1] != reads or (bias is not None and len(bias) != len(weight)):
            raise InputError(f"{path}: weight {layer.weight.name!r} and its bias must fit the layer before")
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        linear.weight = nn.Parameter(weight)
        places[f"layers.{index}.weight"] = Stored(layer.weight.name, layer.transposed)
        if layer.bias is not None and bias is not None:
            linear.bias = nn.Parameter(bias)
            places[f"layers.{index}.bias"] = Stored(layer.bias.name)
        linears.append(linear)
    if len({place.name for place in places.values()}) < len(places):
        raise InputError(f"{path}: every layer must have weights of its own, some share theirs")
    return DenseNetwork(linears, [layer.activation for layer in layers], prelude), places


def _numbers(tensor: TensorProto) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(tensor).copy())


def _settings(node: NodeProto) -> dict[str, float]:
    """The attributes that are numbers."""
    values: dict[str, Any] = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    return {name: value for name, value in values.items() if isinstance(value, (int, float))}


def _constants(model: ModelProto) -> dict[str, TensorProto]:
    """Tensors in `Constant` nodes by the name of their output."""
    nodes = [node for node in model.graph.node if node.op_type == "Constant"]
    return {node.output[0]: each.t for node in nodes for each in node.attribute if each.name == "value"}
