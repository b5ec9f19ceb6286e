"""What each kind of model does when it is asked to compute elsewhere; `meta` stands for a GPU, see test_placement."""

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from dflare.errors import InputError
from dflare.models.exported import ExportedClassifier
from dflare.models.placement import CPU, place
from dflare.models.shown import Shown
from dflare.models.torchscript import open_torchscript
from dflare.models.usercode import UserModel

META, CUDA = torch.device("meta"), torch.device("cuda", 2)
IMAGES = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class Linear(nn.Module):
    """One layer on flattened images."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1))


class Weightless(nn.Module):
    """A network without weights, which even `meta` cannot lose."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3]


def exported(folder: Path) -> ExportedClassifier:
    program = torch.export.export(Linear().eval(), (IMAGES[:2],), dynamic_shapes={"images": {0: Dim("batch")}})
    torch.export.save(program, folder / "model.pt2")
    return ExportedClassifier(folder / "model.pt2")


def torchscript(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates all of TorchScript
        torch.jit.trace(Linear().eval(), IMAGES[:2]).save(str(folder / "model.pt"))
    return open_torchscript(folder / "model.pt", allow_code=True)


def function(folder: Path) -> UserModel:
    return UserModel(Linear().eval(), "the network of m:f")


@pytest.mark.parametrize("opened", [exported, torchscript, function])
def test_torch_models_compute_where_they_are_told(opened: Any, tmp_path: Path) -> None:
    model = opened(tmp_path)
    with torch.inference_mode():
        before = model(IMAGES)
        assert model.to(CPU) is None
        assert torch.equal(model(IMAGES), before)
        assert model.to(META) is None
        assert model(IMAGES.to(META)).device == META
        with pytest.raises((RuntimeError, InputError)):  # there are no numbers to bring back
            model(IMAGES)


@pytest.mark.parametrize("opened", [exported, torchscript])
def test_a_copy_of_a_file_that_was_moved_opens_it_there(opened: Any, tmp_path: Path) -> None:
    model = opened(tmp_path)
    model.to(META)
    assert copy.copy(model)(IMAGES.to(META)).device == META


def test_an_exported_file_with_fixed_batches_is_padded_there(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Linear().eval(), (IMAGES[:3],)), tmp_path / "model.pt2")
    model = ExportedClassifier(tmp_path / "model.pt2")
    model.to(META)
    assert model(IMAGES.to(META)).shape == (5, 2)


def test_a_callable_of_the_user_says_why_it_stays() -> None:
    why = "the model of m:f is no nn.Module, only those can be moved"
    assert UserModel(lambda values: values, "the model of m:f").to(META) == why


def test_a_network_that_was_moved_and_failed_answers_on_the_cpu_as_before() -> None:
    said: list[str] = []
    model = UserModel(Weightless(), "the network of m:f")
    placed = place(Shown(model), META, said.append)  # where scores cannot be brought back from
    assert torch.equal(placed(IMAGES), Weightless()(IMAGES))
    assert len(said) == 1
    assert said[0].startswith("it fails on meta: ")


def linear_onnx(path: Path) -> Path:
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Flatten", ["images"], ["flat"]),
            onnx.helper.make_node("MatMul", ["flat", "weight"], ["scores"]),
        ],
        "linear",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["n", 1, 4, 4])],
        [onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["n", 2])],
        [onnx.numpy_helper.from_array(torch.ones(16, 2).numpy(), "weight")],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def test_onnx_runtime_without_cuda_says_why_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = pytest.importorskip("onnxruntime")
    from dflare.models.onnx_runtime import open_onnx

    monkeypatch.setattr(runtime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    model = open_onnx(linear_onnx(tmp_path / "model.onnx"))
    why = "this ONNX Runtime has no provider for cuda; onnxruntime-gpu has one for cuda"
    assert model.to(CUDA) == why
    assert model.to(CPU) is None
    assert model(IMAGES).shape == (5, 2)


@pytest.mark.parametrize("loads", [True, False])
def test_onnx_runtime_with_cuda_is_asked_for_the_card_in_float32(
    loads: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime where CUDA does not load goes on without it, and says so nowhere but in its providers."""
    runtime = pytest.importorskip("onnxruntime")
    from dflare.models.onnx_runtime import open_onnx

    model = open_onnx(linear_onnx(tmp_path / "model.onnx"))
    before, real, asked = model(IMAGES), runtime.InferenceSession, []

    def session(file: str, options: Any, providers: list[Any], **how: Any) -> Any:
        asked.append((providers, options.use_deterministic_compute))
        opened = real(file, options, ["CPUExecutionProvider"], **how)
        if loads:
            opened.get_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
        return opened

    monkeypatch.setattr(runtime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(runtime, "InferenceSession", session)
    assert model.to(CUDA) is None
    if loads:
        assert torch.equal(model(IMAGES), before)
    else:
        with pytest.raises(InputError, match=r"cannot load what it needs to run .* on cuda:2"):
            model(IMAGES)
    settings = {"device_id": 2, "use_tf32": 0, "cudnn_conv_algo_search": "DEFAULT"}
    assert asked == [([("CUDAExecutionProvider", settings), "CPUExecutionProvider"], True)]
    assert model.to(CPU) is None
    assert torch.equal(model(IMAGES), before)
    assert asked[-1] == (["CPUExecutionProvider"], False)


def test_litert_stays_on_the_cpu() -> None:
    from dflare.models.litert import LiteRTClassifier

    model = object.__new__(LiteRTClassifier)
    assert model.to(CUDA) == "LiteRT computes .tflite files on the CPU"
    assert model.to(CPU) is None
