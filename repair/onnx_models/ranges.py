"""What the activations of an ONNX model hold when it is shown images: their ranges and sizes."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
from onnx import ModelProto, TensorProto, helper
from torch import Tensor

from dflare.classifiers import check_images, to_unit
from dflare.errors import InputError
from dflare.models.interface import Interface
from dflare.models.opening import open_classifier
from repair.onnx_models.activations import find_activations
from repair.onnx_models.weights import read_whole


class Seen(NamedTuple):
    """An activation before it is rounded: least and greatest number over all images, and how many numbers an image."""

    least: float
    greatest: float
    numbers: int

    @property
    def range(self) -> tuple[float, float]:
        return self.least, self.greatest


def observe(
    path: Path,
    images: Tensor,
    interface: Interface = Interface(),  # noqa: B008 (frozen)
    batch_size: int = 100,
) -> dict[str, Seen]:
    """What every quantised activation of the file holds for uint8 images (n, c, h, w), n >= 1, by name.

    Numbers are taken before their own rounding, and after that of all tensors that they are computed from.
    """
    check_images(images)
    if not len(images):
        raise InputError("expected one image or more to see ranges of activations, got none")
    model, shown = read_whole(path), open_classifier(path, interface, threads=1)
    names = [activation.name for activation in find_activations(model)]
    taken = model.graph.input[0].name
    seen: dict[str, Seen] = {}
    session = _session(_with_outputs(model, [name for name in names if name != taken]))
    for part in images.split(batch_size):
        values = shown.show(to_unit(part)).numpy()
        outputs = session.run(None, {taken: values})
        for name in names:
            array = values if name == taken else outputs[_index(session, name)]
            seen[name] = _merged(seen.get(name), array, len(part))
    return seen


def _with_outputs(model: ModelProto, names: list[str]) -> bytes:
    """The model with more outputs, and without the shapes that its export wrote for them."""
    copy = ModelProto()
    copy.CopyFrom(model)
    there = {output.name for output in copy.graph.output}
    copy.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in there
    )
    return copy.SerializeToString()


def _session(content: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    # node by node as written: fused kernels never hold the numbers before they are rounded
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _index(session: onnxruntime.InferenceSession, name: str) -> int:
    return [output.name for output in session.get_outputs()].index(name)


def _merged(before: Seen | None, array: np.ndarray, images: int) -> Seen:
    now = Seen(float(array.min()), float(array.max()), array.size // images)
    if before is None:
        return now
    return Seen(min(before.least, now.least), max(before.greatest, now.greatest), now.numbers)
