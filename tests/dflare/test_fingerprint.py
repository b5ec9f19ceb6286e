"""The fingerprint of a model: numbers known in closed form, in each format."""

import hashlib
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dflare.fingerprints.fingerprint import code_fingerprint, fingerprint, module_file
from dflare.fingerprints.stored import Stored, figures
from experiments.compress import save_exported

BENCH = Path(os.environ.get("DFLARE_BENCH", Path(__file__).parents[2].parent / "shared"))
TFLITE = BENCH / "models" / "diffchaser"


class Small(nn.Module):
    """2 x 1 x 3 x 3 + 2 weights and biases, a batch normalisation of 2 + 2, and 3 x 72 + 3."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.normalisation = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
        self.linear = nn.Linear(72, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.normalisation(self.convolution(images)).relu().flatten(1))


WEIGHTS = 2 * 9 + 3 * 72
BIASES = 2 + 3


def small() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Small().eval()


@pytest.mark.parametrize(
    ("stored", "parameters", "weights"),
    [
        (Stored("float32", (4, 3)), 12, 12),
        (Stored("int8", (4, 3)), 12, 12),
        (Stored("float32", (4,)), 4, 0),
        (Stored("float32", (1, 4, 1, 1)), 4, 0),
        (Stored("float32", ()), 0, 0),
        (Stored("float32", (4, 3), "grid"), 0, 0),
        (Stored("int32", (4,), "bias"), 4, 0),
        (Stored("int32", (4, 2)), 0, 0),
        (Stored("int64", (2,)), 0, 0),
        (Stored("bool", (4, 3)), 0, 0),
        (Stored("bfloat16", (4, 3)), 12, 12),
    ],
)
def test_shapes_grids_and_scalars_are_no_parameters_and_vectors_no_weights(
    stored: Stored, parameters: int, weights: int
):
    found = figures([stored])
    assert found["parameters"] == parameters
    assert sum(found["weights"].values()) == weights


def test_the_integer_share_is_that_of_the_weights_and_not_of_the_biases():
    constants = [Stored("int8", (6, 5)), Stored("uint4", (2, 5)), Stored("float16", (2, 5)), Stored("int16", (10, 3))]
    assert figures([*constants, Stored("int32", (9,), "bias"), Stored("float32", (99,))]) == {
        "parameters": 80 + 9 + 99,
        "weights": {"float16": 10, "int16": 30, "int8": 30, "uint4": 10},
        "integer_share": 0.5,
    }
    assert figures([Stored("float32", (99,))])["integer_share"] is None


class TestOnnx:
    """Files written with onnx.helper and by the project's own quantiser."""

    def test_a_file_made_by_hand_is_counted_by_hand(self, tmp_path: Path):
        path = save_onnx(tmp_path / "model.onnx")
        found = fingerprint(path, "onnx", runtime="onnxruntime 1.2.3", threads=2)
        assert found == {
            "file": "model.onnx",
            "format": "onnx",
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "external": {},
            "parameters": 4 * 3 + 4,
            "weights": {"float32": 12},
            "integer_share": 0.0,
            "operators": {"Gemm": 1, "Reshape": 1},
            "inputs": [{"name": "images", "type": "float32", "shape": ["n", 3, 1, 1]}],
            "outputs": [{"name": "scores", "type": "float32", "shape": ["n", 4]}],
            "dead_bytes": None,
            "runtime": "onnxruntime 1.2.3",
            "threads": 2,
        }

    def test_weights_in_another_file_are_counted_and_hashed(self, tmp_path: Path):
        path = save_onnx(tmp_path / "model.onnx", external="weights.bin")
        found = fingerprint(path, "onnx")
        weights = (tmp_path / "weights.bin").read_bytes()
        assert found["parameters"] == 16
        assert found["external"] == {
            "weights.bin": {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
        }

    @pytest.mark.slow
    def test_an_int8_file_has_the_same_parameters_and_an_integer_share_of_one(self, tmp_path: Path):
        pytest.importorskip("onnxruntime")
        from experiments.quantization import export_onnx, quantize_to_onnx

        images = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        export_onnx(small(), (1, 8, 8), tmp_path / "float.onnx")
        quantize_to_onnx(small(), images, tmp_path / "int8.onnx")
        float_, int8 = (fingerprint(tmp_path / f"{name}.onnx", "onnx") for name in ("float", "int8"))
        # the exporter folds the normalisation into the convolution
        assert float_["parameters"] == int8["parameters"] == WEIGHTS + BIASES
        assert float_["weights"] == {"float32": WEIGHTS}
        assert int8["weights"] == {"int8": WEIGHTS}
        assert (float_["integer_share"], int8["integer_share"]) == (0, 1)
        assert int8["operators"]["DequantizeLinear"] > 4

    def test_one_float_layer_lowers_the_share_by_its_numbers(self, tmp_path: Path):
        path = save_onnx(tmp_path / "mixed.onnx", quantized=True)
        found = fingerprint(path, "onnx")
        assert found["weights"] == {"float32": 20, "int8": 12}
        assert found["integer_share"] == 12 / 32
        assert found["parameters"] == 12 + 4 + 20  # the bias of 4 is int32; scales and zero points do not count

    def test_without_the_package_the_counts_are_null_and_the_file_is_known(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        path = save_onnx(tmp_path / "model.onnx")
        monkeypatch.setattr("dflare.fingerprints.onnx.find_spec", lambda name: None)
        found = fingerprint(path, "onnx")
        assert found["bytes"] == path.stat().st_size
        assert [found[key] for key in ("parameters", "operators", "external", "inputs")] == [None] * 4


def save_onnx(path: Path, external: str | None = None, quantized: bool = False) -> Path:
    """Reshape to (n, 3), then a layer of 4 x 3 weights and 4 biases; quantized: int8, and a float one of 5 x 4."""
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    def constant(name: str, values: Any) -> Any:
        return numpy_helper.from_array(np.asarray(values), name)

    floats = np.float32
    nodes = [helper.make_node("Reshape", ["images", "shape"], ["flat"])]
    tensors = [constant("shape", np.array([-1, 3]))]
    if quantized:
        tensors += [constant("weight8", np.ones((4, 3), np.int8)), constant("bias32", np.ones(4, np.int32))]
        tensors += [constant("scale", np.ones(4, floats)), constant("zero", np.zeros(4, np.int8))]
        tensors += [constant("zero32", np.zeros(4, np.int32)), constant("last", np.ones((5, 4), floats))]
        nodes += [helper.make_node("DequantizeLinear", ["weight8", "scale", "zero"], ["weight"], axis=0)]
        nodes += [helper.make_node("DequantizeLinear", ["bias32", "scale", "zero32"], ["bias"], axis=0)]
        nodes += [helper.make_node("Gemm", ["flat", "weight", "bias"], ["hidden"], transB=1)]
        nodes += [helper.make_node("Gemm", ["hidden", "last"], ["scores"], transB=1)]
    else:
        tensors += [constant("weight", np.ones((4, 3), floats)), constant("bias", np.ones(4, floats))]
        tensors += [constant("unread", np.ones((7, 7), floats))]
        nodes += [helper.make_node("Gemm", ["flat", "weight", "bias"], ["scores"], transB=1)]
    classes = 5 if quantized else 4
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("images", ["n", 3, 1, 1]), ("scores", ["n", classes]))
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], tensors))
    options = {"save_as_external_data": True, "location": external, "size_threshold": 0} if external else {}
    onnx.save(model, path, **options)
    return path


class TestExported:
    """`.pt2` files of a small module, in float and in int8 as converters leave it."""

    def test_a_float_program_has_its_modules_parameters_and_no_running_statistics(self, tmp_path: Path):
        save_exported(small(), (1, 8, 8), tmp_path / "model.pt2")
        found = fingerprint(tmp_path / "model.pt2", "exported")
        assert found["parameters"] == sum(weight.numel() for weight in small().parameters()) == WEIGHTS + BIASES + 4
        assert found["weights"] == {"float32": WEIGHTS}
        assert found["operators"]["aten.conv2d"] == found["operators"]["aten.linear"] == 1
        (images,), (scores,) = found["inputs"], found["outputs"]
        assert (images["type"], images["shape"][1:], scores["shape"][1:]) == ("float32", [1, 8, 8], [3])
        assert isinstance(images["shape"][0], str)
        assert found["dead_bytes"] == 8  # of the batches that the normalisation counted in training

    def test_an_int8_program_counts_what_its_graph_reads_and_names_what_is_dead(self, tmp_path: Path):
        save_exported(Quantized(), (1, 8, 8), tmp_path / "int8.pt2")
        found = fingerprint(tmp_path / "int8.pt2", "exported")
        assert found["weights"] == {"int8": 3 * 64}
        assert found["integer_share"] == 1
        assert found["parameters"] == 3 * 64 + 3
        assert found["operators"]["quantized_decomposed.dequantize_per_channel"] == 1
        assert found["dead_bytes"] == 4 * 3 * 64


class Quantized(nn.Module):
    """A layer of 3 x 64 weights as int8, dequantised by channel, with the float ones it was made from left in."""

    def __init__(self) -> None:
        super().__init__()
        import torch.ao.quantization.fx._decomposed  # makes torch know the operators

        self.weight, self.bias = nn.Parameter(torch.ones(3, 64)), nn.Parameter(torch.zeros(3))
        self.register_buffer("_frozen_param0", torch.ones(3, 64, dtype=torch.int8))
        self.register_buffer("_scale_0", torch.ones(3))
        self.register_buffer("_zero_point_0", torch.zeros(3, dtype=torch.int64))

    def forward(self, images: Tensor) -> Tensor:
        weight = torch.ops.quantized_decomposed.dequantize_per_channel(
            self._frozen_param0, self._scale_0, self._zero_point_0, 0, -128, 127, torch.int8
        )
        return nn.functional.linear(images.flatten(1), weight, self.bias)


class TestLiteRT:
    """The published files, whose layers are known."""

    def test_lenet_5_is_counted_as_its_layers_are(self):
        pytest.importorskip("ai_edge_litert")
        if not TFLITE.is_dir():
            pytest.skip("needs the .tflite models of DFLARE_BENCH")
        layers = {"conv1": 6 * 25, "conv2": 16 * 25 * 6, "fc1": 120 * 784, "fc2": 84 * 120, "fc3": 10 * 84}
        biases = 6 + 16 + 120 + 84 + 10
        found, quantised = (fingerprint(TFLITE / f"lenet5{x}.tflite", "litert") for x in ("", "_quant"))
        assert found["parameters"] == quantised["parameters"] == sum(layers.values()) + biases
        assert found["weights"] == {"float32": sum(layers.values())}
        large = sum(size for size in layers.values() if size >= 1024)  # the converter leaves smaller ones alone
        assert quantised["weights"] == {"float32": sum(layers.values()) - large, "uint8": large}
        assert quantised["integer_share"] == large / sum(layers.values())
        assert found["operators"]["FULLY_CONNECTED"] == 3
        assert found["inputs"][0]["shape"] == [1, 28, 28, 1]

    def test_a_file_of_integers_only_has_a_share_of_one_and_says_its_grid(self):
        pytest.importorskip("ai_edge_litert")
        path = BENCH / "models" / "mlperf_tiny" / "pretrainedResnet_quant.tflite"
        if not path.is_file():
            pytest.skip("needs the models of MLPerf Tiny in DFLARE_BENCH")
        found, original = fingerprint(path, "litert"), fingerprint(path.with_name("pretrainedResnet.tflite"), "litert")
        assert found["integer_share"] == 1
        assert found["parameters"] == original["parameters"]  # biases are int32 here and float there
        assert found["inputs"] == [
            {"name": "input_1_int8", "type": "int8", "shape": ["any", 32, 32, 3], "grid": [1.0, -128]}
        ]


class TestCode:
    """TorchScript and a user's own functions: nothing is run to describe them."""

    def test_torchscript_is_counted_only_where_code_may_run(self, tmp_path: Path):
        path = tmp_path / "model.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.15 calls TorchScript deprecated
            torch.jit.save(torch.jit.trace(small(), torch.zeros(1, 1, 8, 8)), path)
        closed, opened = (fingerprint(path, "torchscript", allow_code=allowed) for allowed in (False, True))
        assert closed["sha256"] == opened["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (closed["parameters"], closed["operators"]) == (None, None)
        assert opened["parameters"] == WEIGHTS + BIASES + 4
        assert opened["integer_share"] == 0
        assert opened["operators"]["aten.linear"] == 1

    def test_a_function_is_known_by_the_hash_of_its_module_and_of_its_weights(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        (tmp_path / "my_networks.py").write_text("raise RuntimeError('must not be imported')\n")
        (tmp_path / "weights.pth").write_bytes(b"numbers")
        monkeypatch.syspath_prepend(tmp_path)
        found = code_fingerprint("my_networks:make", tmp_path / "weights.pth", runtime="torch 1", threads=1)
        assert (found["file"], found["format"], found["runtime"]) == ("my_networks:make", "code", "torch 1")
        assert found["sha256"] == hashlib.sha256((tmp_path / "my_networks.py").read_bytes()).hexdigest()
        assert found["external"]["weights.pth"]["sha256"] == hashlib.sha256(b"numbers").hexdigest()
        assert found["parameters"] is None

    @pytest.mark.parametrize("name", ["no_such_module", "no_such_package.module", "sys", "", "..x"])
    def test_a_module_without_a_file_has_none(self, name: str):
        assert module_file(name) is None


@pytest.mark.parametrize("form", ["onnx", "litert", "exported", "torchscript", "another"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"\x08\x07 cut off"])
def test_of_a_damaged_file_size_and_hash_are_known_and_the_rest_is_null(tmp_path: Path, form: str, content: bytes):
    path = tmp_path / "model"
    path.write_bytes(content)
    found = fingerprint(path, form, allow_code=True)
    assert (found["bytes"], found["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert found["parameters"] is None
    assert found["inputs"] is None
