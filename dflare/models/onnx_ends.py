"""What the ends of an ONNX graph mean: integers that stand for numbers, and scores that are probabilities."""

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dflare.errors import InputError
from dflare.models.grids import Grid, image_takes
from dflare.models.interface import Takes
from dflare.models.onnx_files import ImageInput

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

TYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.uint16,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    10: torch.float16,
    11: torch.float64,
}
"""ONNX element types in which a model may take its images and return its scores."""

CARRIERS = {"Reshape", "Squeeze", "Unsqueeze", "Identity", "Cast", "Flatten", "QuantizeLinear", "DequantizeLinear"}
"""Operators after which probabilities are still probabilities."""

_READS = {"DequantizeLinear", "QLinearConv"}
"""Operators whose second and third input are the scale and zero point of the first."""

_MOVES = {"Identity", "Transpose", "Reshape", "Squeeze", "Flatten"}
"""Operators that move integers about and leave them what they are."""


def onnx_takes(model: "ModelProto", images: ImageInput, path: Path) -> tuple[Takes, Grid]:
    """What a model takes and returns, and the grid of its input; raises `InputError` if those are no images."""
    if images.element not in TYPES:
        raise InputError(f"the model in {path} must take images of numbers, it takes ONNX's type {images.element}")
    grid = input_grid(model, images)
    takes = image_takes(images.shape, False, grid, f"the model in {path}")
    last = _maker(model, model.graph.output[0].name)
    scores = {"Softmax": "probabilities", "LogSoftmax": "logits"}.get(last.op_type if last else "")
    return takes._replace(scores=scores), grid


def input_grid(model: "ModelProto", images: ImageInput) -> Grid:
    """The type of the input and, where it goes straight into what dequantises it, its scale and zero point."""
    dtype, name = TYPES[images.element], images.name
    for _ in model.graph.node:
        readers = [node for node in model.graph.node if name in node.input]
        if len(readers) == 1 and readers[0].op_type in _MOVES and not dtype.is_floating_point:
            name = readers[0].output[0]
            continue
        grids = {_grid(model, node, dtype) for node in readers if node.op_type in _READS and node.input[0] == name}
        if len(grids) == 1 and len(readers) > 0 and all(node.op_type in _READS for node in readers):
            return grids.pop() or Grid(dtype)
        break
    return Grid(dtype)


def output_grid(model: "ModelProto") -> Grid:
    """The type of the first output and, where a QuantizeLinear makes its integers, their scale and zero point."""
    makers, name = _makers(model), model.graph.output[0].name
    dtype = TYPES.get(model.graph.output[0].type.tensor_type.elem_type, torch.float32)
    while name in makers and makers[name].op_type in _MOVES:
        name = makers.pop(name).input[0]
    if name in makers and makers[name].op_type == "QuantizeLinear":
        return _grid(model, makers[name], dtype) or Grid(dtype)
    return Grid(dtype)


def _grid(model: "ModelProto", node: "NodeProto", dtype: torch.dtype) -> Grid | None:
    """The scale and zero point of a node where they are one stored number each."""
    from onnx.numpy_helper import to_array

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    stored |= {made.output[0]: value for made in model.graph.node if (value := _constant(made)) is not None}
    numbers = []
    for name in node.input[1:3]:
        if name and (name not in stored or prod(stored[name].dims) != 1 or stored[name].external_data):
            return None
        numbers.append(to_array(stored[name]).item() if name else 0)
    scale, zero_point = [*numbers, 0][:2]
    return Grid(dtype, float(scale), int(zero_point)) if scale > 0 else None


def _constant(node: "NodeProto") -> "TensorProto | None":
    return (
        next((entry.t for entry in node.attribute if entry.name == "value"), None)
        if node.op_type == "Constant"
        else None
    )


def _makers(model: "ModelProto") -> dict[str, "NodeProto"]:
    return {name: node for node in model.graph.node for name in node.output}


def _maker(model: "ModelProto", name: str) -> "NodeProto | None":
    """The operator that made a value, seen through what only carries it."""
    makers = _makers(model)
    while name in makers and makers[name].op_type in CARRIERS:
        name = makers.pop(name).input[0]  # popped, so that a ring in a broken file ends
    return makers.get(name)
