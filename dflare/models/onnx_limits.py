"""What an ONNX file may claim, checked before anything is allocated or run: sizes, places and operators."""

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from dflare.errors import InputError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

MOST_BYTES = 2**31 - 1
"""Size of a file that protocol buffers can hold; larger models keep their weights beside it."""

MOST_NUMBERS = 2**33
"""Numbers in one tensor."""

DOMAINS = {
    "",
    "ai.onnx",
    "ai.onnx.ml",
    "ai.onnx.preview",
    "com.microsoft",
    "com.microsoft.nchwc",
    "com.ms.internal.nhwc",
}
"""Where operators come from that ONNX Runtime has without a library of somebody's own."""

_STRING = 8
_ELEMENTS = {
    128: (15,),
    64: (7, 11, 13, 14),
    32: (1, 6, 12),
    16: (4, 5, 10, 16),
    8: (2, 3, _STRING, 9, 17, 18, 19, 20, 24),
    4: (21, 22, 23),
    2: (25, 26),
}
BITS = {element: bits for bits, elements in _ELEMENTS.items() for element in elements}
"""Bits of a number, by ONNX element type (onnx.proto); text has no fixed size and is counted by the piece."""


def check_limits(model: "ModelProto", path: Path) -> None:
    """Raise `InputError` for tensors that are not as large as they claim or lie elsewhere, and for unknown operators.

    `ParseFromString` has limited the depth of subgraphs before (100 nested messages).
    """
    for tensor in _tensors(model):
        _check_size(path, tensor, _stored_bytes(path, tensor))
    own = {(function.domain, function.name) for function in model.functions}
    for node in _nodes(model):
        if node.domain not in DOMAINS and (node.domain, node.op_type) not in own:
            raise InputError(
                f"the model in {path} needs the operator {node.op_type} of {node.domain}, which comes with a library "
                "of its own; no such library is loaded, so export the model without it"
            )


def _nodes(model: "ModelProto") -> Iterator["NodeProto"]:
    """Every operator in a model, those in functions and in subgraphs too."""
    yield from _inner_nodes(model.graph.node)
    for function in model.functions:
        yield from _inner_nodes(function.node)


def _inner_nodes(nodes: "Iterator[NodeProto] | list[NodeProto]") -> Iterator["NodeProto"]:
    for node in nodes:
        yield node
        for graph in _subgraphs(node):
            yield from _inner_nodes(graph.node)


def _subgraphs(node: "NodeProto") -> Iterator["GraphProto"]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _tensors(model: "ModelProto") -> Iterator["TensorProto"]:
    """Every tensor stored in a model, those in attributes, functions and subgraphs too."""
    graphs = [model.graph, *(graph for node in _nodes(model) for graph in _subgraphs(node))]
    sparse = [tensor for graph in graphs for tensor in graph.sparse_initializer]
    for graph in graphs:
        yield from graph.initializer
    for node in _nodes(model):
        for attribute in node.attribute:
            yield from (*((attribute.t,) if attribute.HasField("t") else ()), *attribute.tensors)
            sparse += [*((attribute.sparse_tensor,) if attribute.HasField("sparse_tensor") else ())]
            sparse += attribute.sparse_tensors
    for tensor in sparse:
        if min(tensor.dims, default=0) < 0 or prod(tensor.dims) > MOST_BYTES // 8:
            raise InputError(f"a sparse tensor must have at most {MOST_BYTES // 8} numbers, it has {list(tensor.dims)}")
        yield from (tensor.values, tensor.indices)


def _check_size(path: Path, tensor: "TensorProto", stored: int | None) -> None:
    """Raise `InputError` unless a tensor's sizes and type make as many bytes as are stored; None: as many numbers."""
    name, sizes = tensor.name or "a tensor", list(tensor.dims)
    numbers = prod(sizes)
    if min(sizes, default=0) < 0 or numbers > MOST_NUMBERS:
        raise InputError(f"the model in {path} holds {name!r} of impossible sizes {sizes}")
    if tensor.data_type not in BITS:
        raise InputError(f"the model in {path} holds {name!r} of the unknown element type {tensor.data_type}")
    if stored is None:
        fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
        parts = max(1, 8 // BITS[tensor.data_type])  # small types lie several in one
        fits = numbers <= parts * max(len(field) for field in (*fields, tensor.string_data))
    else:
        fits = stored == (numbers * BITS[tensor.data_type] + 7) // 8
    if not fits:
        raise InputError(f"the model in {path} holds {name!r} of sizes {sizes}, but not as many numbers; it is cut off")


def _stored_bytes(path: Path, tensor: "TensorProto") -> int | None:
    """Bytes that hold a tensor's numbers, here or in a file beside the model; None where they are listed one by one."""
    if tensor.data_location != tensor.EXTERNAL:
        return len(tensor.raw_data) if tensor.HasField("raw_data") and tensor.data_type != _STRING else None
    said = {entry.key: entry.value for entry in tensor.external_data}
    size = _external_file(path, tensor.name or "a tensor", said.get("location", "")).stat().st_size
    try:
        offset = int(said.get("offset") or 0)
        length = int(said["length"]) if said.get("length") else size - offset
    except ValueError as error:
        raise InputError(f"the model in {path} keeps {tensor.name!r} at {said}, which is no place") from error
    if offset < 0 or length < 0 or offset + length > size:
        raise InputError(
            f"the model in {path} keeps {tensor.name!r} in bytes {offset} to {offset + length} of "
            f"{said['location']}, which has {size}; it is cut off"
        )
    if "length" not in said:  # then the tensor's own size is what is read
        return min(length, (prod(tensor.dims) * BITS.get(tensor.data_type, 8) + 7) // 8)
    return length


def _external_file(path: Path, name: str, location: str) -> Path:
    """The file beside the model that holds a tensor; raises `InputError` for one outside its folder, links followed."""
    folder = path.parent.resolve()
    if not location or Path(location).is_absolute() or not (folder / location).resolve().is_relative_to(folder):
        raise InputError(f"the weights of {path} must lie in its own folder, but {name} points to {location!r}")
    if not (folder / location).is_file():
        raise InputError(f"the model in {path} keeps weights in {location}, expected beside it, found none")
    return folder / location
