"""ONNX files repaired in place: what may change, and everything that may not."""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dflare.errors import InputError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from dflare.models.onnx_runtime import open_onnx  # noqa: E402
from repair.compression import Compressed, Pruned, Quantized  # noqa: E402
from repair.onnx_models.artifact import open_onnx_artifact  # noqa: E402
from repair.onnx_models.difference import graph_difference  # noqa: E402

BENCH = Path(os.environ.get("DFLARE_BENCH", Path(__file__).parents[2].parent / "shared"))
WEIGHTS = {"conv.w", "conv.b", "fc.w", "fc.b"}


def quantised_net(path: Path) -> Path:
    """Images (n, 1, 6, 6) -> convolution with int8 weights per channel, ReLU, linear layer with float scores."""
    rng = np.random.default_rng(0)
    stored = {
        "x.s": np.float32(1 / 255),
        "x.z": np.uint8(0),
        "conv.w": rng.integers(-100, 100, (4, 1, 3, 3)).astype(np.int8),
        "conv.s": np.float32([0.01, 0.02, 0.005, 0.01]),
        "conv.z": np.zeros(4, np.int8),
        "conv.b": rng.integers(-2000, 2000, 4).astype(np.int32),
        "conv.bs": np.float32([0.01, 0.02, 0.005, 0.01]) / np.float32(255),
        "h.s": np.float32(0.05),
        "h.z": np.uint8(3),
        "fc.w": rng.integers(-100, 100, (3, 64)).astype(np.int8),
        "fc.s": np.float32(0.003),
        "fc.z": np.int8(0),
        "fc.b": np.zeros(3, np.int32),
        "fc.bs": np.float32(0.05 * 0.003),
    }
    make = helper.make_node
    nodes = [
        make("DequantizeLinear", ["conv.w", "conv.s", "conv.z"], ["conv.wr"], axis=0),
        make("DequantizeLinear", ["conv.b", "conv.bs"], ["conv.br"], axis=0),
        make("DequantizeLinear", ["fc.w", "fc.s", "fc.z"], ["fc.wr"]),
        make("DequantizeLinear", ["fc.b", "fc.bs"], ["fc.br"]),
        make("QuantizeLinear", ["images", "x.s", "x.z"], ["x.q"]),
        make("DequantizeLinear", ["x.q", "x.s", "x.z"], ["x.d"]),
        make("Conv", ["x.d", "conv.wr", "conv.br"], ["c"], name="conv", pads=[0, 0, 0, 0], strides=[1, 1]),
        make("Relu", ["c"], ["r"]),
        make("QuantizeLinear", ["r", "h.s", "h.z"], ["h.q"]),
        make("DequantizeLinear", ["h.q", "h.s", "h.z"], ["h.d"]),
        make("Flatten", ["h.d"], ["f"]),
        make("Gemm", ["f", "fc.wr", "fc.br"], ["scores"], transB=1),
    ]
    save(path, nodes, stored, ["n", 1, 6, 6])
    return path


def pruned_net(path: Path) -> Path:
    weight = np.random.default_rng(0).standard_normal((3, 36)).astype(np.float32)
    weight[:, ::3] = 0
    nodes = [
        helper.make_node("Flatten", ["images"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["scores"], transB=1),
    ]
    save(path, nodes, {"w": weight, "b": np.zeros(3, np.float32)}, ["n", 1, 6, 6])
    return path


def save(path: Path, nodes: list[onnx.NodeProto], stored: dict[str, np.ndarray], shape: list[int | str]) -> None:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def batch(n: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 1, 6, 6), generator=generator).float() / 255
    return images, (images[:, 0, :3, :3].mean((1, 2)) * 3).long().clamp(0, 2)


def trained(path: Path, steps: int, rate: float = 1e-2) -> tuple[Compressed, list[float], object]:
    artifact = open_onnx_artifact(path)
    student, (images, labels) = Compressed(artifact.module, artifact.plan), batch()
    optimizer = torch.optim.Adam(student.parameters(), rate)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(student(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return student, losses, artifact


def stored_in(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("net", [quantised_net, pruned_net])
def test_repairing_nothing_changes_nothing(tmp_path, net):
    path, written = net(tmp_path / "net.onnx"), tmp_path / "written.onnx"
    artifact = open_onnx_artifact(path)
    artifact.write(Compressed(artifact.module, artifact.plan).weights(), written)
    artifact.check(written)
    assert written.read_bytes() == path.read_bytes()
    assert graph_difference(path, written) == []


@pytest.mark.slow
@pytest.mark.skipif(not (BENCH / "models").is_dir(), reason="needs the real models of DFLARE_BENCH")
@pytest.mark.parametrize("name", ["mnist_lenet-5", "mnist_simplecnn", "cifar-10_resnet20"])
@pytest.mark.parametrize("kind", ["int8", "pruned"])
def test_repairing_nothing_in_a_real_model_changes_no_byte(tmp_path, name, kind):
    path = BENCH / "models" / name / f"{kind}.onnx"
    artifact = open_onnx_artifact(path)
    artifact.write(Compressed(artifact.module, artifact.plan).weights(), tmp_path / "written.onnx")
    artifact.check(tmp_path / "written.onnx")
    assert (tmp_path / "written.onnx").read_bytes() == path.read_bytes()


def test_gradients_reach_through_the_quantisers(tmp_path):
    _, losses, _ = trained(quantised_net(tmp_path / "net.onnx"), steps=20)
    assert losses[-1] < 0.7 * losses[0]


def test_training_changes_integers_and_nothing_else(tmp_path):
    path, written = quantised_net(tmp_path / "net.onnx"), tmp_path / "new" / "written.onnx"
    student, _, artifact = trained(path, steps=5)
    artifact.write(student.weights(), written)
    artifact.check(written)
    before, after = stored_in(path), stored_in(written)
    assert {name for name in before if not np.array_equal(before[name], after[name])} == WEIGHTS
    assert graph_difference(path, written) == [
        f"data of initialiser {name!r} differ" for name in before if name in WEIGHTS
    ]
    assert not list(written.parent.glob(".*"))


def test_the_written_file_answers_as_the_student(tmp_path):
    student, _, artifact = trained(quantised_net(tmp_path / "net.onnx"), steps=5)
    artifact.write(student.weights(), tmp_path / "written.onnx")
    images, _ = batch()
    scores = open_onnx(tmp_path / "written.onnx")(images)
    torch.testing.assert_close(student(images).detach(), scores, atol=0.05 * 0.003 * 255, rtol=0)
    assert torch.equal(student(images).argmax(-1), scores.argmax(-1))


def test_weights_far_beyond_the_grid_are_clamped_and_never_wrapped(tmp_path):
    path, written = quantised_net(tmp_path / "net.onnx"), tmp_path / "written.onnx"
    artifact = open_onnx_artifact(path)
    weights = {name: torch.full_like(value, 1e9) for name, value in artifact.module.named_parameters()}
    artifact.write(weights, written)
    assert {name: set(stored_in(written)[name].ravel().tolist()) for name in ("conv.w", "fc.w")} == {
        "conv.w": {127},
        "fc.w": {127},
    }
    assert set(stored_in(written)["conv.b"].tolist()) == {2**31 - 1}
    artifact.write({name: -value for name, value in weights.items()}, written)
    assert set(stored_in(written)["conv.w"].ravel().tolist()) == {-128}
    assert set(stored_in(written)["conv.b"].tolist()) == {-(2**31)}


def test_integers_that_float32_cannot_tell_apart_survive(tmp_path):
    path = quantised_net(tmp_path / "net.onnx")
    model = onnx.load(path)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "fc.b")
    bias.CopyFrom(numpy_helper.from_array(np.int32([2**31 - 1, -(2**31), 123_456_789]), "fc.b"))
    path.write_bytes(model.SerializeToString(deterministic=True))
    artifact = open_onnx_artifact(path)
    artifact.write(Compressed(artifact.module, artifact.plan).weights(), tmp_path / "written.onnx")
    assert (tmp_path / "written.onnx").read_bytes() == path.read_bytes()


def test_the_plan_is_read_from_the_file(tmp_path):
    quantised = open_onnx_artifact(quantised_net(tmp_path / "q.onnx")).plan
    assert len(quantised) == 4
    assert all(isinstance(projection, Quantized) for projection in quantised.values())
    pruned = open_onnx_artifact(pruned_net(tmp_path / "p.onnx")).plan
    assert list(pruned) == ["w"]
    assert isinstance(pruned["w"], Pruned)


def test_zeros_stay_zero_and_a_filled_one_is_noticed(tmp_path):
    path, written = pruned_net(tmp_path / "net.onnx"), tmp_path / "written.onnx"
    student, _, artifact = trained(path, steps=5)
    artifact.write(student.weights(), written)
    artifact.check(written)
    assert not stored_in(written)["w"][:, ::3].any()
    artifact.write(dict(artifact.module.named_parameters()) | {"w": torch.ones(3, 36)}, written)
    with pytest.raises(InputError, match="w is no longer compressed: being pruned"):
        artifact.check(written)


def _scale(model: onnx.ModelProto) -> None:
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == "h.s")
    scale.CopyFrom(numpy_helper.from_array(np.float32(0.06), "h.s"))


def _element(model: onnx.ModelProto) -> None:
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "fc.w")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.int16), "fc.w"))


def _attribute(model: onnx.ModelProto) -> None:
    conv = next(node for node in model.graph.node if node.name == "conv")
    next(attribute for attribute in conv.attribute if attribute.name == "pads").ints[0] = 1


def _extra(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "extra"))


def _gone(model: onnx.ModelProto) -> None:
    del model.graph.node[-1]


def _output(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4


def _opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 20


def _rewired(model: onnx.ModelProto) -> None:
    model.graph.node[-1].input[0] = "h.d"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_scale, "data of 'h.s', which is no weight, differ"),
        (_element, "element type or shape of initialiser 'fc.w' differs"),
        (_attribute, "attribute pads of node 6 .Conv 'conv'. differs"),
        (_extra, "initialiser 'extra' is new"),
        (_gone, "number of nodes differs: 12 and 11"),
        (_output, "output of the graph differs"),
        (_opset, "opset_import of the model differs"),
        (_rewired, "input of node 11 .Gemm ''. differs"),
    ],
)
def test_whatever_else_changed_is_named(tmp_path, change: Callable[[onnx.ModelProto], None], words):
    path, other = quantised_net(tmp_path / "net.onnx"), tmp_path / "other.onnx"
    model = onnx.load(path)
    change(model)
    other.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=words):
        open_onnx_artifact(path).check(other)
    assert graph_difference(path, other)


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    artifact = open_onnx_artifact(quantised_net(tmp_path / "net.onnx"))
    weights = {name: value * torch.nan for name, value in artifact.module.named_parameters()}
    with pytest.raises(InputError, match="must be finite"):
        artifact.write(weights, tmp_path / "written.onnx")
    assert not (tmp_path / "written.onnx").exists()


def test_weights_by_other_names_or_shapes_are_refused(tmp_path):
    artifact = open_onnx_artifact(quantised_net(tmp_path / "net.onnx"))
    with pytest.raises(ValueError, match="weights must be named"):
        artifact.write({}, tmp_path / "written.onnx")
    wrong = {name: value[..., :1] for name, value in artifact.module.named_parameters()}
    with pytest.raises(ValueError, match="must have shape"):
        artifact.write(wrong, tmp_path / "written.onnx")


def test_numbers_in_typed_fields_stay_in_typed_fields(tmp_path):
    path, written = quantised_net(tmp_path / "net.onnx"), tmp_path / "written.onnx"
    model = onnx.load(path)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "fc.w")
    values = numpy_helper.to_array(weight)
    weight.CopyFrom(helper.make_tensor("fc.w", TensorProto.INT8, values.shape, values.ravel().tolist()))
    path.write_bytes(model.SerializeToString(deterministic=True))
    artifact = open_onnx_artifact(path)
    weights = dict(artifact.module.named_parameters())
    artifact.write(weights, written)
    assert written.read_bytes() == path.read_bytes()
    artifact.write(weights | {"fc_w": -weights["fc_w"]}, written)
    assert np.array_equal(stored_in(written)["fc.w"], -values)


def test_weights_beside_the_file_are_taken_in(tmp_path):
    path, written = tmp_path / "outside.onnx", tmp_path / "new" / "written.onnx"
    model = onnx.load(pruned_net(tmp_path / "net.onnx"))
    onnx.save(model, path, save_as_external_data=True, location="outside.data", size_threshold=0)
    artifact = open_onnx_artifact(path)
    artifact.write(dict(artifact.module.named_parameters()), written)
    artifact.check(written)
    assert graph_difference(tmp_path / "net.onnx", written) == []


def test_a_model_without_weights_is_refused(tmp_path):
    save(tmp_path / "net.onnx", [helper.make_node("GlobalAveragePool", ["images"], ["scores"])], {}, ["n", 3, 2, 2])
    with pytest.raises(InputError, match="no weights that a repair could move"):
        open_onnx_artifact(tmp_path / "net.onnx")


def test_a_missing_package_is_answered_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    for name in [name for name in sys.modules if name.startswith("repair.onnx_models")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(InputError, match=r'needs onnx: pip install "dflare\[onnx\]"'):
        importlib.import_module("repair.onnx_models.artifact")
