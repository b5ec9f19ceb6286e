"""ONNX files read as data: what they hold, before any runtime sees them."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dflare.errors import InputError
from dflare.models.onnx_limits import MOST_BYTES, check_limits

if TYPE_CHECKING:
    from onnx import ModelProto


class ImageInput(NamedTuple):
    """The one input of an image classifier: its name, ONNX element type and shape, a name where a size is free."""

    name: str
    element: int
    shape: list[int | str]


def read_onnx(path: Path) -> "ModelProto":
    """The model in an ONNX file, with weights that lie beside it left there.

    Raises `InputError` for a missing file, for one that is no ONNX model or larger than one can be, and for what
    `check_limits` refuses, such as weights outside the file's folder.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError as error:
        raise InputError(f'{path} needs the package onnx, which is missing: pip install "dflare[onnx]"') from error
    if not path.is_file():
        raise InputError(f"expected a model file at {path}, found none")
    if path.stat().st_size > MOST_BYTES:
        raise InputError(
            f"an ONNX file must have at most {MOST_BYTES} bytes, {path} has {path.stat().st_size}; "
            "save the model with its weights beside it (external data)"
        )
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise InputError(f"expected an ONNX model in {path}, but the file is none or is cut off") from error
    if not model.opset_import or not model.graph.node or not model.graph.output:
        raise InputError(f"expected an ONNX model in {path}, but the file holds no graph")
    check_limits(model, path)
    return model


def image_input(model: "ModelProto", path: Path) -> ImageInput:
    """The model's one input; raises `InputError` unless it is one tensor of four dimensions."""
    stored = {tensor.name for tensor in model.graph.initializer}  # before IR version 4 they were inputs as well
    inputs = [value for value in model.graph.input if value.name not in stored]
    if len(inputs) != 1:
        raise InputError(f"the model in {path} must take one input, the images; it takes {len(inputs)}")
    kind = inputs[0].type.tensor_type
    if not kind.HasField("shape") or len(kind.shape.dim) != 4:
        came = f"{len(kind.shape.dim)} dimensions" if kind.HasField("shape") else "an unknown shape"
        raise InputError(f"the model in {path} must take images (n, channels, height, width), it takes {came}")
    # some exporters write -1 for a size that is free
    shape = [dim.dim_value if dim.dim_value not in (0, -1) else dim.dim_param or "any" for dim in kind.shape.dim]
    return ImageInput(inputs[0].name, kind.elem_type, shape)
