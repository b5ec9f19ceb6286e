"""ONNX files as black boxes: one-line answers by hand, and every way in which a file can be wrong."""

import copy
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dflare.errors import InputError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from dflare.models.onnx_runtime import open_onnx  # noqa: E402
from dflare.models.shown import Shown  # noqa: E402


def channel_means(path: Path, batch: int | str = "batch", element: int = TensorProto.FLOAT, op: str = "") -> Path:
    """A model that answers with the mean of each of three channels of images of 2 x 2."""
    nodes = [
        helper.make_node(op or "ReduceMean", ["images", "axes"], ["means"], name="pool"),
        helper.make_node("Flatten", ["means"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("images", element, [batch, 3, 2, 2])],
        [helper.make_tensor_value_info("scores", element, [batch, 3])],
        [numpy_helper.from_array(np.int64([2, 3]), "axes")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def opened(path: Path) -> Shown:
    """The file's model, shown images as it says itself."""
    model = open_onnx(path, 1)
    return Shown(model, takes=model.takes, name=f"the model in {path}")


@pytest.fixture
def images() -> torch.Tensor:
    return torch.arange(5 * 3 * 4, dtype=torch.float32).view(5, 3, 2, 2) / 60


@pytest.mark.parametrize("batch", ["batch", 1, 2, 8])
def test_any_number_of_images_is_answered_whatever_batch_the_file_fixes(tmp_path, images, batch):
    scores = open_onnx(channel_means(tmp_path / "model.onnx", batch))(images)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, images.mean((2, 3)))


@pytest.mark.parametrize("element", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_models_of_other_float_types_answer_in_float32(tmp_path, images, element):
    scores = open_onnx(channel_means(tmp_path / "model.onnx", element=element))(images)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, images.mean((2, 3)), atol=1e-3, rtol=0)


def test_a_classifier_in_use_can_be_pickled_and_copied(tmp_path, images):
    classifier = open_onnx(channel_means(tmp_path / "model.onnx"))
    scores = classifier(images)
    for other in (copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        torch.testing.assert_close(other(images), scores, atol=0, rtol=0)


def test_the_session_is_opened_once(tmp_path, images, monkeypatch):
    classifier = open_onnx(channel_means(tmp_path / "model.onnx"))
    classifier(images)
    monkeypatch.setattr("dflare.models.onnx_runtime._open_session", None)
    classifier(images)


def test_an_unoptimised_session_gives_the_same_means(tmp_path, images):
    scores = open_onnx(channel_means(tmp_path / "model.onnx"), threads=1, optimize=False)(images)
    torch.testing.assert_close(scores, images.mean((2, 3)))


@pytest.mark.parametrize(
    ("shape", "words"),
    [((1, 2, 2, 2), "3 channels, got 2"), ((1, 3, 4, 4), r"2 x 2 pixels \(height x width\), got 4 x 4")],
)
def test_images_of_another_size_are_refused_by_numbers(tmp_path, shape, words):
    with pytest.raises(InputError, match=rf"model\.onnx takes images of {words}"):
        opened(channel_means(tmp_path / "model.onnx"))(torch.zeros(shape))


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a", b"PK\x03\x04" + bytes(100)])
def test_files_that_are_no_onnx_are_refused_in_one_sentence(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"expected an ONNX model in .*model\.onnx"):
        open_onnx(tmp_path / "model.onnx")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"expected a model file at .*gone\.onnx"):
        open_onnx(tmp_path / "gone.onnx")


def test_an_operator_that_the_runtime_lacks_is_one_sentence(tmp_path, images):
    classifier = open_onnx(channel_means(tmp_path / "model.onnx", op="Nonsense"))
    with pytest.raises(InputError, match="cannot be opened by ONNX Runtime") as caught:
        classifier(images)
    assert "\n" not in str(caught.value)


def test_a_first_output_that_holds_no_scores_is_named(tmp_path, images):
    nodes = [
        helper.make_node("Shape", ["images"], ["sizes"]),
        helper.make_node("Flatten", ["images"], ["scores"]),
    ]
    outputs = [
        helper.make_tensor_value_info("sizes", TensorProto.INT64, [4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 12]),
    ]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 2, 2])]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"the first output .*, sizes, must be scores \(5, classes\), got \(4,\)"):
        open_onnx(tmp_path / "m.onnx")(images)


@pytest.mark.parametrize(
    ("shapes", "words"), [([[1, 3, 2, 2], [1, 3, 2, 2]], "one input, the images; it takes 2"), ([[1, 12]], "2 dimen")]
)
def test_models_that_take_no_images_are_refused(tmp_path, shapes, words):
    inputs = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape) for i, shape in enumerate(shapes)]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, shapes[0])
    graph = helper.make_graph([helper.make_node("Identity", ["x0"], ["y"])], "g", inputs, [output])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    with pytest.raises(InputError, match=words):
        open_onnx(tmp_path / "model.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_answered_with_the_command_that_installs_it(tmp_path, monkeypatch, package):
    path = channel_means(tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r'pip install "dflare\[onnx\]"'):
        open_onnx(path)
