"""Float models to int8 files: what is in them, and that integers compute."""

import logging
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dflare.classifiers import to_unit
from dflare.errors import InputError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from dflare.models.onnx_runtime import open_onnx  # noqa: E402
from experiments.quantization import export_onnx, quantize_to_onnx  # noqa: E402
from repair.compression import Quantized  # noqa: E402
from repair.onnx_models.artifact import open_onnx_artifact  # noqa: E402

pytestmark = pytest.mark.slow  # the exporter alone takes seconds


class Net(nn.Module):
    """A small residual network with everything that export has to fold or drop."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.second, self.pool = nn.Conv2d(8, 8, 3, padding=1), nn.MaxPool2d(2)
        self.drop, self.last = nn.Dropout(), nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool(self.first((images - 0.5) / 0.25))
        return self.last(self.drop(torch.relu(x + self.second(x)).flatten(1)))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(0, 256, (100, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model(images: Tensor) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net()
        net(to_unit(images))  # gives the normalisation statistics that are worth folding
    return net.train()


@pytest.fixture(scope="module")
def written(model: Net, images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantised") / "new" / "int8.onnx"
    quantize_to_onnx(model, images, path)
    return path


def test_the_int8_file_answers_almost_as_the_model(model, images, written):
    with torch.no_grad():
        expected = model.eval()(to_unit(images))
    model.train()
    scores = open_onnx(written)(to_unit(images))
    assert (scores - expected).abs().max() < 0.1 * expected.std()
    assert (scores.argmax(-1) == expected.argmax(-1)).float().mean() > 0.9


def test_integer_kernels_do_the_work(written, tmp_path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 3
    onnxruntime.InferenceSession(str(written), options, providers=["CPUExecutionProvider"])
    ops = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert ops["QLinearConv"] == 2
    assert ops["QGemm"] == 1
    assert ops["Conv"] == ops["Gemm"] == ops["BatchNormalization"] == 0


def test_scores_are_float_and_weights_are_int8_per_channel(written):
    graph = onnx.load(written).graph
    assert [node.op_type for node in graph.node if "logits" in node.output] == ["Gemm"]
    stored = {tensor.name: tensor for tensor in graph.initializer}
    weights = [tensor for name, tensor in stored.items() if name.endswith("weight_quantized")]
    assert [tensor.data_type for tensor in weights] == [onnx.TensorProto.INT8] * 3
    assert list(stored["first.0.weight_scale"].dims) == [8]
    assert not any(name.startswith("logits") for name in stored)


def test_scores_do_not_tie(images, written):
    top = open_onnx(written)(to_unit(images)).topk(2, -1).values
    assert (top[:, 0] > top[:, 1]).all()


def test_the_int8_file_can_be_opened_for_repair(images, written):
    artifact = open_onnx_artifact(written)
    assert all(isinstance(projection, Quantized) for projection in artifact.plan.values())
    assert len(artifact.plan) == len(list(artifact.module.parameters())) == 6
    with torch.no_grad():
        scores = artifact.module(to_unit(images))
    torch.testing.assert_close(scores, open_onnx(written)(to_unit(images)), atol=0.02, rtol=0)


def test_the_same_input_gives_the_same_bytes_in_silence(model, images, written, tmp_path, capfd):
    handlers, modes = list(logging.getLogger().handlers), [module.training for module in model.modules()]
    quantize_to_onnx(model, images, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == written.read_bytes()
    assert tuple(capfd.readouterr()) == ("", "")
    assert logging.getLogger().handlers == handlers
    assert [module.training for module in model.modules()] == modes
    assert [path.name for path in tmp_path.iterdir()] == ["again.onnx"]


def test_the_float_export_takes_any_batch(model, images, tmp_path):
    export_onnx(model, (1, 8, 8), tmp_path / "float.onnx")
    with torch.no_grad():
        expected = model.eval()(to_unit(images))
    model.train()
    for n in (1, 3, 100):
        torch.testing.assert_close(open_onnx(tmp_path / "float.onnx")(to_unit(images[:n])), expected[:n])


def test_calibration_without_images_is_refused(model, images, tmp_path):
    with pytest.raises(InputError, match="at least one image"):
        quantize_to_onnx(model, images[:0], tmp_path / "int8.onnx")
    with pytest.raises(InputError, match="images must be uint8"):
        quantize_to_onnx(model, to_unit(images), tmp_path / "int8.onnx")


def test_a_missing_package_is_answered_with_the_command_that_installs_it(model, images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r'onnxscript, which is missing: pip install "dflare\[onnx\]"'):
        quantize_to_onnx(model, images, tmp_path / "int8.onnx")
