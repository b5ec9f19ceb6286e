"""What an `.onnx` file says of itself; weights beside it are hashed, not read."""

from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dflare.fingerprints.stored import Contents, Stored
from dflare.hashing import file_hash
from dflare.models.onnx_files import read_onnx

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto

GRIDS: dict[str, tuple[int, ...]] = {
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
    "DynamicQuantizeMatMul": (2, 3),
    "MatMulNBits": (2, 3),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QLinearAdd": (1, 2, 4, 5, 6, 7),
    "QLinearMul": (1, 2, 4, 5, 6, 7),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "BatchNormalization": (3, 4),
    "Resize": (1, 2),
    "Upsample": (1,),
}
"""Operator, ONNX's or ONNX Runtime's -> which inputs, from 0, are scales, zero points, statistics or settings."""

BIASES: dict[str, tuple[int, ...]] = {
    "Conv": (2,),
    "ConvTranspose": (2,),
    "Gemm": (2,),
    "QLinearConv": (8,),
    "QGemm": (6,),
    "DequantizeLinear": (0,),  # integers of 32 bits that become floats are biases
}
"""Operator -> which of its inputs may be biases: what makes wide integers parameters."""

_NAMES = {"FLOAT": "float32", "DOUBLE": "float64"}


def onnx_contents(path: Path) -> Contents | None:
    """The contents of an `.onnx` file, with the size and hash of each file its weights lie in.

    None without the package onnx; raises `InputError` for a file that is no ONNX model.
    """
    if find_spec("onnx") is None:
        return None
    model = read_onnx(path)
    stored = {tensor.name for tensor in model.graph.initializer}
    return Contents(
        [_interface(value) for value in model.graph.input if value.name not in stored],
        [_interface(value) for value in model.graph.output],
        Counter(_operator(node) for graph in _graphs(model.graph) for node in graph.node),
        [constant for graph in _graphs(model.graph) for constant in _constants(graph)],
        {"external": _external(path, model.graph)},
    )


def _graphs(graph: "GraphProto") -> Iterator["GraphProto"]:
    """The graph and those inside its nodes (branches, loops)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _graphs(inner)


def _constants(graph: "GraphProto") -> Iterator[Stored]:
    """The stored tensors of one graph that nodes in it, or inside them, read; sparse ones as if they were dense."""
    roles = _roles(graph)
    found = [(tensor.name, tensor.data_type, tensor.dims) for tensor in graph.initializer]
    found += [(sparse.values.name, sparse.values.data_type, sparse.dims) for sparse in graph.sparse_initializer]
    for node in graph.node:
        if node.op_type == "Constant":
            values = [attribute.t for attribute in node.attribute if attribute.name == "value"]
            found += [(node.output[0], value.data_type, value.dims) for value in values]
    for name, element, dims in found:
        if name in roles:
            yield Stored(_type_name(element), tuple(dims), roles[name])


def _roles(graph: "GraphProto") -> dict[str, str]:
    """Name -> what it is read as: as a bias if by one node, else as a value if by one, else as part of a grid."""
    order = ("bias", "value", "grid")
    roles: dict[str, str] = {}
    for node in (node for inner in _graphs(graph) for node in inner.node):
        for place, name in enumerate(node.input):
            role = "grid" if place in GRIDS.get(node.op_type, ()) else "value"
            role = "bias" if place in BIASES.get(node.op_type, ()) else role
            roles[name] = min(role, roles.get(name, role), key=order.index)
    return roles


def _operator(node: "NodeProto") -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _interface(value: "ValueInfoProto") -> dict[str, Any]:
    kind = value.type.tensor_type
    shape = [dim.dim_value or dim.dim_param or "any" for dim in kind.shape.dim] if kind.HasField("shape") else None
    return {"name": value.name, "type": _type_name(kind.elem_type), "shape": shape}


def _type_name(element: int) -> str:
    """An ONNX element type as numpy names it."""
    from onnx import TensorProto

    known = {number: name for name, number in TensorProto.DataType.items()}
    name = known.get(element, f"type {element}")
    return _NAMES.get(name, name.lower())


def _external(path: Path, graph: "GraphProto") -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file beside the model in which weights lie, by its name in the model."""
    places = {
        entry.value
        for tensor in _tensors(graph)
        if tensor.data_location == tensor.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    files = {place: path.parent / place for place in sorted(places)}
    return {place: {"bytes": file.stat().st_size, "sha256": file_hash(file)} for place, file in files.items()}


def _tensors(graph: "GraphProto") -> Iterator["TensorProto"]:
    for inner in _graphs(graph):
        yield from inner.initializer
        for sparse in inner.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for attribute in (attribute for node in inner.node for attribute in node.attribute):
            yield from (attribute.t, *attribute.tensors)
