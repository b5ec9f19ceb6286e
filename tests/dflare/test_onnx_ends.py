"""What the ends of an ONNX graph mean: layouts, integers that stand for numbers, probabilities."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dflare.classifiers import to_unit
from dflare.errors import InputError
from dflare.models.interface import Interface, Takes

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import NodeProto, TensorProto, helper, numpy_helper  # noqa: E402

from dflare.models.onnx_runtime import open_onnx  # noqa: E402
from dflare.models.shown import Shown  # noqa: E402

KINDS = {
    np.dtype(kind): helper.np_dtype_to_tensor_dtype(np.dtype(kind)) for kind in ("uint8", "int8", "int16", "uint16")
}


def saved(
    path: Path,
    nodes: Sequence[NodeProto],
    shape: Sequence[Any] = ("n", 3, 2, 4),
    element: int = TensorProto.FLOAT,
    returned: int = TensorProto.FLOAT,
    **stored: Any,
) -> Path:
    """A model from "images" to "scores" (n, 3) made of some nodes, with constants by name."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", element, shape)],
        [helper.make_tensor_value_info("scores", returned, [shape[0], 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def node(op: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def means(source: str, target: str) -> NodeProto:
    return node("ReduceMean", f"{source} axes", target, keepdims=0)


def opened(path: Path, **said: Any) -> Shown:
    model = open_onnx(path, 1)
    return Shown(model, Interface(**said), model.takes)


@pytest.fixture
def images() -> Tensor:
    """Every grey level once or more, (32, 3, 2, 4) in [0, 1]."""
    return to_unit((torch.arange(32 * 24) % 256).view(32, 3, 2, 4).to(torch.uint8))


AXES = np.int64([2, 3])


@pytest.mark.parametrize("batch", ["n", 5])
def test_channels_may_come_last(tmp_path, images, batch):
    nodes = [means("images", "scores")]
    classifier = opened(saved(tmp_path / "m.onnx", nodes, (batch, 2, 4, 3), axes=np.int64([1, 2])))
    assert classifier.takes == Takes(3, 2, 4, "nhwc", batches=(5, 5) if batch == 5 else (1, 2**31))
    torch.testing.assert_close(classifier(images), images.mean((2, 3)))


def test_sizes_written_as_minus_one_are_free(tmp_path, images):
    classifier = opened(saved(tmp_path / "m.onnx", [means("images", "scores")], (-1, 3, -1, -1), axes=AXES))
    assert classifier.takes == Takes(3, None, None, "nchw")
    torch.testing.assert_close(classifier(images), images.mean((2, 3)))


@pytest.mark.parametrize(
    ("kind", "scale", "zero", "ends"),
    [
        ("int8", 1.0, -128, (0, 255)),
        ("uint8", 1 / 255, 0, (0, 1)),
        ("int8", 1 / 255, -128, (0, 1)),
        ("uint16", 1 / 65535, 0, (0, 1)),
        ("int16", 1 / 32768, 0, (-1, 1)),
        ("int8", 0.02, -20, None),
    ],
)
@pytest.mark.parametrize("moved", [False, True])
def test_integers_that_are_dequantised_at_once_are_the_numbers_that_they_stand_for(
    tmp_path, images, kind, scale, zero, ends, moved
):
    nodes = [node("DequantizeLinear", "images scale zero", "numbers"), means("numbers", "scores")]
    if moved:
        nodes = [node("Transpose", "images", "moved", perm=[0, 1, 3, 2]), *nodes]
        nodes[1].input[0] = "moved"
    stored = {"scale": np.float32(scale), "zero": np.dtype(kind).type(zero), "axes": AXES}
    classifier = opened(saved(tmp_path / "m.onnx", nodes, element=KINDS[np.dtype(kind)], **stored))
    assert classifier.takes.range == (ends and tuple(map(float, ends)))
    low, high = ends or (0, 1)
    expected = images.mean((2, 3)) * (high - low) + low
    torch.testing.assert_close(classifier(images), expected, atol=scale / 2 + 1e-6, rtol=0)


def test_the_rounding_is_that_of_the_runtime(tmp_path):
    """A file that quantises its floats itself and one that is handed integers answer with the same bits."""
    stored = {"scale": np.float32(0.0123), "zero": np.int8(-7), "axes": AXES}
    last = [node("DequantizeLinear", "integers scale zero", "numbers"), means("numbers", "scores")]
    quantising = [node("QuantizeLinear", "images scale zero", "integers"), *last]
    floats = open_onnx(saved(tmp_path / "floats.onnx", quantising, **stored), 1)
    last[0].input[0] = "images"
    integers = open_onnx(saved(tmp_path / "integers.onnx", last, element=TensorProto.INT8, **stored), 1)
    halves = (torch.arange(-400, 416) * 0.5 * torch.tensor(0.0123)).view(34, 3, 2, 4)
    assert torch.equal(floats(halves), integers(halves))


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_integers_without_a_scale_are_the_numbers_themselves(tmp_path, images, kind):
    nodes = [node("Cast", "images", "numbers", to=TensorProto.FLOAT), means("numbers", "scores")]
    path = saved(tmp_path / "m.onnx", nodes, element=KINDS[np.dtype(kind)], axes=AXES)
    classifier = opened(path)
    assert classifier.takes.range == ((0, 255) if kind == "uint8" else None)
    if kind == "uint8":
        torch.testing.assert_close(classifier(images), images.mean((2, 3)) * 255)
    else:
        scores = opened(path, range=(-128, 127))(images)
        torch.testing.assert_close(scores, images.mean((2, 3)) * 255 - 128, atol=1e-4, rtol=0)


def test_integers_that_are_read_in_two_ways_have_no_scale(tmp_path):
    nodes = [
        node("DequantizeLinear", "images scale zero", "numbers"),
        node("DequantizeLinear", "images other zero", "others"),
        node("Add", "numbers others", "sum"),
        means("sum", "scores"),
    ]
    stored = {"scale": np.float32(1), "other": np.float32(2), "zero": np.int8(-128), "axes": AXES}
    assert open_onnx(saved(tmp_path / "m.onnx", nodes, element=TensorProto.INT8, **stored), 1).takes.range is None


@pytest.mark.parametrize("flat", [False, True])
def test_integer_scores_are_the_numbers_that_they_stand_for(tmp_path, images, flat):
    nodes = [means("images", "means"), node("QuantizeLinear", "means scale zero", "integers" if flat else "scores")]
    if flat:
        nodes.append(node("Flatten", "integers", "scores"))
    stored = {"scale": np.float32(1 / 255), "zero": np.uint8(3), "axes": AXES}
    scores = opened(saved(tmp_path / "m.onnx", nodes, returned=TensorProto.UINT8, **stored))(images)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, images.mean((2, 3)).clamp(max=252 / 255), atol=0.5 / 255 + 1e-6, rtol=0)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Sigmoid", ""])
@pytest.mark.parametrize("carried", [False, True])
def test_probabilities_are_told_from_the_last_operator(tmp_path, images, op, carried):
    nodes = [means("images", "means"), node(op or "Neg", "means", "made")]
    if carried:
        nodes += [
            node("QuantizeLinear", "made scale zero", "integers"),
            node("DequantizeLinear", "integers scale zero", "numbers"),
            node("Cast", "numbers", "halves", to=TensorProto.FLOAT16),
            node("Cast", "halves", "wholes", to=TensorProto.FLOAT),
            node("Flatten", "wholes", "scores"),
        ]
    else:
        nodes[-1].output[0] = "scores"
    stored = {"scale": np.float32(1 / 4096), "zero": np.int16(0), "axes": AXES}
    classifier = opened(saved(tmp_path / "m.onnx", nodes, **stored))
    assert classifier.takes.scores == {"Softmax": "probabilities", "LogSoftmax": "logits"}.get(op)
    if op == "Softmax":
        expected = images.mean((2, 3)).softmax(-1)
        torch.testing.assert_close(classifier(images).softmax(-1), expected, atol=1e-3, rtol=0)


def test_images_of_text_are_refused(tmp_path):
    with pytest.raises(InputError, match="must take images of numbers, it takes ONNX's type 8"):
        open_onnx(saved(tmp_path / "m.onnx", [means("images", "scores")], element=TensorProto.STRING, axes=AXES))
