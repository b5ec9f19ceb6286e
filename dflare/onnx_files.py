"""ONNX files read as data: what they hold, before any runtime sees them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dflare.errors import InputError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto


class ImageInput(NamedTuple):
    """The one input of an image classifier: its name, ONNX element type and shape, a name where a size is free."""

    name: str
    element: int
    shape: list[int | str]


def read_onnx(path: Path) -> "ModelProto":
    """The model in an ONNX file, with weights that lie beside it left there.

    Raises `InputError` for a missing file, for one that is no ONNX model, and for weights outside the file's folder.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError as error:
        raise InputError(f'{path} needs the package onnx, which is missing: pip install "dflare[onnx]"') from error
    if not path.is_file():
        raise InputError(f"expected a model file at {path}, found none")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise InputError(f"expected an ONNX model in {path}, but the file is none or is cut off") from error
    if not model.opset_import or not model.graph.node or not model.graph.output:
        raise InputError(f"expected an ONNX model in {path}, but the file holds no graph")
    for tensor in _tensors(model.graph):
        _check_inside(path, tensor)
    return model


def image_input(model: "ModelProto", path: Path) -> ImageInput:
    """The model's one input; raises `InputError` unless it is one tensor (n, channels, height, width)."""
    stored = {tensor.name for tensor in model.graph.initializer}  # before IR version 4 they were inputs as well
    inputs = [value for value in model.graph.input if value.name not in stored]
    if len(inputs) != 1:
        raise InputError(f"the model in {path} must take one input, the images; it takes {len(inputs)}")
    kind = inputs[0].type.tensor_type
    if not kind.HasField("shape") or len(kind.shape.dim) != 4:
        came = f"{len(kind.shape.dim)} dimensions" if kind.HasField("shape") else "an unknown shape"
        raise InputError(f"the model in {path} must take images (n, channels, height, width), it takes {came}")
    shape: list[int | str] = [dim.dim_value or dim.dim_param or "any" for dim in kind.shape.dim]
    return ImageInput(inputs[0].name, kind.elem_type, shape)


def _tensors(graph: "GraphProto") -> Iterator["TensorProto"]:
    """Every tensor stored in a graph, those in attributes and in subgraphs too."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _check_inside(path: Path, tensor: "TensorProto") -> None:
    """Raise `InputError` for a tensor whose data lie in a file outside the model's folder, links followed."""
    if tensor.data_location != tensor.EXTERNAL:
        return
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    folder = path.parent.resolve()
    if not location or Path(location).is_absolute() or not (folder / location).resolve().is_relative_to(folder):
        raise InputError(
            f"the weights of {path} must lie in its own folder, but {tensor.name or 'a tensor'} points to {location!r}"
        )
    if not (folder / location).is_file():
        raise InputError(f"the model in {path} keeps weights in {location}, expected beside it, found none")
