"""Which stored tensors of an ONNX graph are weights, and which of them are kept as integers on a grid."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

from dflare.errors import InputError
from dflare.models.onnx_files import read_onnx

WEIGHT_INPUTS = {"Conv": (1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1), "BatchNormalization": (1, 2)}
"""Inputs that may be weights or biases, by operator; running means and variances are none."""

PASSES = {"DequantizeLinear", "QuantizeLinear", "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}
"""Operators through which a stored tensor stays a weight."""

INTEGERS = {"int8", "uint8", "int16", "uint16", "int32"}
"""Element types of quantised weights and biases."""


@dataclass(frozen=True)
class Weight:
    """An initialiser that a repair may move: float32, or integers that `DequantizeLinear` makes real."""

    name: str
    values: np.ndarray

    @property
    def quantized(self) -> bool:
        return self.values.dtype != np.float32


def read_whole(path: Path) -> ModelProto:
    """The model with weights that lie beside it taken in; raises `InputError` as `read_onnx`, and for broken ones."""
    from onnx.external_data_helper import load_external_data_for_model

    model = read_onnx(path)
    try:
        load_external_data_for_model(model, str(path.parent))
    except Exception as error:
        raise InputError(f"the weights that {path} keeps beside it cannot be read: {error}") from error
    return model


def find_weights(graph: GraphProto) -> Iterator[Weight]:
    """Weights and biases of convolutions, linear layers and normalisations, in the order of the file.

    Raises `InputError` for element types that cannot be moved and for integers that are used at two scales.
    """
    makers = {output: node for node in graph.node for output in node.output}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    names = {_source(name, makers) for node in graph.node for name in _weight_inputs(node, makers)} & set(stored)
    readers: dict[str, list[NodeProto]] = {name: [] for name in names}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in readers:
            readers[node.input[0]].append(node)
    for name in (tensor.name for tensor in graph.initializer if tensor.name in names):
        values, nodes = numpy_helper.to_array(stored[name]), readers[name]
        if values.dtype == np.float32:
            yield Weight(name, values)
        elif str(values.dtype) in INTEGERS and nodes:
            if len({(*node.input[1:], str(node.attribute)) for node in nodes}) > 1:
                raise InputError(f"weight {name!r} is dequantised in two ways, expected one scale and zero point")
            yield Weight(name, values)
        else:
            raise InputError(f"weight {name!r} is {values.dtype}, expected float32 or one of {sorted(INTEGERS)}")


def _weight_inputs(node: NodeProto, makers: dict[str, NodeProto]) -> Iterator[str]:
    """Inputs of a node that are weights if they lead to a stored tensor; `Add` after `MatMul` adds a bias."""
    yield from (node.input[i] for i in WEIGHT_INPUTS.get(node.op_type, ()) if i < len(node.input))
    if node.op_type == "Add":
        for one, other in (node.input, reversed(node.input)):
            maker = makers.get(one)
            while maker is not None and maker.op_type in PASSES:
                maker = makers.get(maker.input[0])
            if maker is not None and maker.op_type == "MatMul":
                yield other


def _source(name: str, makers: dict[str, NodeProto]) -> str:
    """The stored tensor or activation that a name stands for, seen through what only passes it on."""
    while name in makers and makers[name].op_type in PASSES:
        name = makers[name].input[0]
    return name
