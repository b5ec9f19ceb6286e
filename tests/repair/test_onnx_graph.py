"""The torch form of an ONNX graph against answers by hand and against ONNX Runtime."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from dflare.errors import InputError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from dflare.models.onnx_runtime import open_onnx  # noqa: E402
from repair.onnx_models.artifact import open_onnx_artifact  # noqa: E402
from repair.onnx_models.graph import OnnxModule  # noqa: E402
from repair.onnx_models.operators import OPERATORS  # noqa: E402

BENCH = Path(os.environ.get("DFLARE_BENCH", Path(__file__).parents[2].parent / "shared"))
needs_bench = pytest.mark.skipif(not (BENCH / "models").is_dir(), reason="needs the real models of DFLARE_BENCH")
Node = onnx.NodeProto
Stored = dict[str, np.ndarray]


def model_of(
    nodes: list[Node], stored: Stored, shape: tuple[int | str, ...] = ("n", 4, 6, 6), opset: int = 21
) -> onnx.ModelProto:
    """A model that takes `images` and returns `y`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def node(op: str, *inputs: str, into: str = "y", **attributes: object) -> Node:
    return helper.make_node(op, list(inputs), [into], name=f"{op}_{into}", **attributes)


def module_of(*arguments: object, **options: object) -> OnnxModule:
    return OnnxModule(model_of(*arguments, **options), Path("model.onnx"))  # type: ignore[arg-type]


def round_trip(scale: Stored | np.ndarray, zero: np.ndarray, **attributes: int) -> OnnxModule:
    nodes = [
        node("QuantizeLinear", "images", "scale", "zero", into="q", **attributes),
        node("DequantizeLinear", "q", "scale", "zero", **attributes),
    ]
    return module_of(nodes, {"scale": scale, "zero": zero}, ("n", "c", "h", "w"))


def test_activations_round_half_to_even_and_saturate_instead_of_wrapping():
    module = round_trip(np.float32(0.5), np.uint8(10))
    x = torch.tensor([0.25, 0.75, 1.25, -0.25, 157.5, -100.0]).view(1, 1, 1, 6)
    # quotients 0.5 1.5 2.5 -0.5 315 -200; rounded, plus 10: 10 12 12 10 325 -190; saturated: 10 12 12 10 255 0
    assert module(x).flatten().tolist() == [0.0, 1.0, 1.0, 0.0, 122.5, -5.0]


def test_325_as_int8_is_127():
    module = round_trip(np.float32(1), np.int8(0))
    assert module(torch.tensor([325.0, -300.0]).view(1, 1, 1, 2)).flatten().tolist() == [127.0, -128.0]


def test_each_channel_has_its_own_scale():
    module = round_trip(np.float32([1, 0.25]), np.int8([0, 4]), axis=1)
    x = torch.tensor([2.4, 2.4]).view(1, 2, 1, 1)
    # 2.4 -> 2 -> 2.0, and 9.6 -> 10 + 4 -> (14 - 4) / 4
    assert module(x).flatten().tolist() == [2.0, 2.5]


def test_the_gradient_of_rounding_is_one_inside_the_range_and_zero_outside():
    module = round_trip(np.float32(0.5), np.uint8(10))
    x = torch.tensor([0.3, 122.6, 123.0, -5.2, -6.0]).view(1, 1, 1, 5).requires_grad_()
    module(x).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [1.0, 1.0, 0.0, 1.0, 0.0]  # what rounds into the range counts as inside


@pytest.mark.parametrize("element", [np.uint8, np.int8, np.uint16, np.int16])
def test_rounding_equals_onnx_runtime_bit_for_bit(tmp_path, element):
    limits = np.iinfo(element)
    stored = {"scale": np.float32(3e-5 if limits.bits == 16 else 0.0137), "zero": element(limits.max // 3)}
    nodes = [
        node("QuantizeLinear", "images", "scale", "zero", into="q"),
        node("DequantizeLinear", "q", "scale", "zero", into="d"),
        node("Flatten", "d"),
    ]
    onnx.save(model_of(nodes, stored, ("n", 1, 1, 1)), tmp_path / "m.onnx")
    x = torch.randn(20_000, 1, 1, 1, generator=torch.Generator().manual_seed(0)) * 2
    expected = open_onnx(tmp_path / "m.onnx", optimize=False)(x)
    assert torch.equal(module_of(nodes, stored)(x), expected)


def test_a_quantised_weight_becomes_real_numbers_on_a_grid():
    stored = {
        "w": np.int8([[[[4]]], [[[-128]]]]),
        "ws": np.float32([0.5, 0.25]),
        "wz": np.int8([0, 0]),
        "b": np.int32([70_000, -3]),
        "bs": np.float32([0.5, 0.25]),
    }
    nodes = [
        node("DequantizeLinear", "w", "ws", "wz", into="wr", axis=0),
        node("DequantizeLinear", "b", "bs", into="br", axis=0),
        node("Conv", "images", "wr", "br"),
    ]
    module = module_of(nodes, stored, ("n", 1, 1, 1))
    assert module.w.flatten().tolist() == [2.0, -32.0]
    assert module.b.tolist() == [35_000.0, -0.75]
    assert (module.grids["w"].low, module.grids["w"].high) == (-128, 127)
    assert (module.grids["b"].low, module.grids["b"].high) == (-(2**31), 2**31 - 1)
    assert module.grids["w"].scale.shape == (2, 1, 1, 1)
    assert module(torch.ones(1, 1, 1, 1)).flatten().tolist() == [35_002.0, -32.75]
    torch.testing.assert_close(
        module.grids["w"].integers(torch.full((2, 1, 1, 1), 325.0)).flatten().tolist(), [127.0, 127.0]
    )


def test_an_unsigned_weight_per_tensor_uses_its_zero_point():
    stored = {"w": np.uint8([[0, 128], [255, 130]]), "s": np.float32(0.1), "z": np.uint8(128)}
    nodes = [
        node("Flatten", "images", into="f"),
        node("DequantizeLinear", "w", "s", "z", into="wr"),
        node("Gemm", "f", "wr", transB=1),
    ]
    module = module_of(nodes, stored, ("n", 2, 1, 1))
    torch.testing.assert_close(module.w.detach(), torch.tensor([[-12.8, 0.0], [12.7, 0.2]]))
    torch.testing.assert_close(module(torch.ones(1, 2, 1, 1)), torch.tensor([[-12.8, 12.9]]))


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def one(op: str, stored: Stored | None = None, **attributes: object) -> tuple[list[Node], Stored]:
    """A graph of one node that takes the images and then everything stored."""
    stored = stored or {}
    return [node(op, "images", *stored, **attributes)], stored


W, FLAT = random(6, 4, 3, 3), [node("Flatten", "images", into="f")]
GRID = {"s": np.float32(0.1), "z": np.uint8(7)}
SIZE = [
    node("Shape", "images", into="s"),
    node("Gather", "s", "first", into="g", axis=0),
    node("Unsqueeze", "g", "axes", into="u"),
    node("Concat", "u", "rest", into="t", axis=0),
    node("Reshape", "images", "t"),
]
CASES: dict[str, list[tuple[list[Node], Stored]]] = {
    "Add": [one("Add", {"b": random(4, 1, 1)})],
    "AveragePool": [
        one("AveragePool", kernel_shape=[2, 2], strides=[2, 2]),
        one("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
        one("AveragePool", kernel_shape=[3, 3], pads=[0, 1, 1, 2], strides=[2, 2]),
        one("AveragePool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        one("AveragePool", kernel_shape=[2, 2], auto_pad="SAME_UPPER", strides=[2, 1]),
    ],
    "BatchNormalization": [
        one("BatchNormalization", {"w": random(4), "b": random(4), "m": random(4), "v": random(4) ** 2})
    ],
    "Cast": [([node("Cast", "images", into="i", to=7), node("Cast", "i", to=1)], {})],
    "Clip": [one("Clip", {"low": np.float32(-0.3), "high": np.float32(0.7)}), one("Clip", {"low": np.float32(0)})],
    "Concat": [one("Concat", {}, axis=1), ([node("Concat", "images", "images", axis=-1)], {})],
    "Conv": [
        one("Conv", {"w": W, "b": random(6)}, pads=[1, 1, 1, 1], strides=[2, 1]),
        one("Conv", {"w": W}, pads=[2, 0, 1, 3], dilations=[2, 2]),
        one("Conv", {"w": random(8, 2, 2, 2), "b": random(8)}, group=2, auto_pad="SAME_LOWER", strides=[2, 2]),
    ],
    "DequantizeLinear": [
        ([node("QuantizeLinear", "images", "s", "z", into="q"), node("DequantizeLinear", "q", "s", "z")], GRID)
    ],
    "Div": [one("Div", {"b": np.float32(0.3)})],
    "Dropout": [one("Dropout")],
    "Flatten": [
        one("Flatten"),
        ([node("Flatten", "images", into="f", axis=-1), node("Reshape", "f", "s")], {"s": ints(-1, 144)}),
    ],
    "Gather": [one("Gather", {"i": ints(2, -1, 0)}, axis=2), one("Gather", {"i": np.int64([[1, 0]])}, axis=1)],
    "Gemm": [
        ([*FLAT, node("Gemm", "f", "w", "c", alpha=0.5, beta=2.0)], {"w": random(144, 5), "c": random(5)}),
        ([*FLAT, node("Gemm", "f", "w", transB=1)], {"w": random(5, 144)}),
    ],
    "GlobalAveragePool": [one("GlobalAveragePool")],
    "HardSigmoid": [one("HardSigmoid", alpha=0.3)],
    "HardSwish": [one("HardSwish")],
    "Identity": [one("Identity")],
    "LeakyRelu": [one("LeakyRelu", alpha=0.2)],
    "LogSoftmax": [one("LogSoftmax", axis=1)],
    "MatMul": [one("MatMul", {"w": random(6, 3)})],
    "MaxPool": [
        one("MaxPool", kernel_shape=[2, 2], strides=[2, 2]),
        one("MaxPool", kernel_shape=[3, 3], pads=[0, 1, 2, 1], strides=[2, 2]),
        one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        one("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2], ceil_mode=1),
        one("MaxPool", kernel_shape=[3, 3], pads=[1, 0, 1, 0], strides=[3, 2], ceil_mode=1),
        one("MaxPool", kernel_shape=[2, 2], dilations=[2, 2]),
    ],
    "Mul": [one("Mul", {"b": random(1, 6)})],
    "Pad": [
        one("Pad", {"p": ints(0, 0, 1, 2, 0, 1, 0, 3), "v": np.float32(0.4)}),
        one("Pad", {"p": ints(0, 0, 1, 2, 0, 0, 2, 1)}, mode="reflect"),
        ([node("Pad", "images", "p", "", "a", mode="edge")], {"p": ints(1, 2), "a": ints(-1)}),
    ],
    "QuantizeLinear": [
        ([node("QuantizeLinear", "images", "s", into="q"), node("DequantizeLinear", "q", "s")], {"s": np.float32(0.01)})
    ],
    "ReduceMean": [one("ReduceMean", {"a": ints(2, 3)}), one("ReduceMean", {"a": ints(-1)}, keepdims=0)],
    "Relu": [one("Relu")],
    "Reshape": [one("Reshape", {"s": ints(0, 2, -1)}), one("Reshape", {"s": ints(-1, 144)}, allowzero=1)],
    "Shape": [(SIZE, {"first": np.int64(0), "axes": ints(0), "rest": ints(-1)})],
    "Sigmoid": [one("Sigmoid")],
    "Sign": [([node("Sub", "images", "half", into="d"), node("Sign", "d")], {"half": np.float32(0.5)})],
    "Slice": [one("Slice", {"b": ints(0, 1), "e": ints(2**62, -1), "a": ints(2, -1), "s": ints(2, 1)})],
    "Softmax": [one("Softmax", axis=1), one("Softmax")],
    "Squeeze": [([node("GlobalAveragePool", "images", into="p"), node("Squeeze", "p", "a")], {"a": ints(2, -1)})],
    "Sub": [([node("Sub", "b", "images")], {"b": np.float32(1)})],
    "Tanh": [one("Tanh")],
    "Transpose": [one("Transpose", perm=[0, 2, 3, 1])],
    "Unsqueeze": [one("Unsqueeze", {"a": ints(1, -1)})],
}


def test_every_operator_has_a_case():
    assert set(CASES) == set(OPERATORS)


@pytest.mark.parametrize(("op", "case"), [(op, i) for op, cases in CASES.items() for i in range(len(cases))])
def test_operators_equal_onnx_runtime(tmp_path, op, case):
    import onnxruntime

    model = model_of(*CASES[op][case])
    images = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    torch.testing.assert_close(OnnxModule(model, tmp_path)(images).detach(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "opset"),
    [
        ([node("Softmax", "images", axis=1)], 9),
        ([node("Clip", "images", min=-0.5, max=0.5)], 9),
        ([node("Pad", "images", pads=[0, 0, 1, 1, 0, 0, 0, 2])], 9),
        ([node("ReduceMean", "images", axes=[2, 3])], 13),
        ([node("Unsqueeze", "images", axes=[1])], 11),
    ],
)
def test_older_operator_sets_keep_their_meaning(tmp_path, nodes, opset):
    import onnxruntime

    model = model_of(nodes, {}, opset=opset)
    images = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"images": images.numpy()})[0]
    torch.testing.assert_close(OnnxModule(model, tmp_path)(images), torch.from_numpy(expected))


def test_only_weights_and_biases_are_parameters():
    stored = {
        "mean": random(4, 1, 1),
        "conv.w": W,
        "conv_w": random(6),
        "w": random(216, 5),
        "bias": random(5),
        "gain": random(5),
    }
    nodes = [
        node("Sub", "images", "mean", into="a"),
        node("Conv", "a", "conv.w", "conv_w", into="b", pads=[1, 1, 1, 1]),
        node("Flatten", "b", into="c"),
        node("MatMul", "c", "w", into="d"),
        node("Add", "bias", "d", into="e"),
        node("Mul", "e", "gain"),
    ]
    module = module_of(nodes, stored)
    assert module.initializers == {"conv_w": "conv.w", "conv_w_": "conv_w", "w": "w", "bias": "bias"}
    assert set(module.initializers) == set(dict(module.named_parameters()))


def test_a_batch_size_fixed_at_the_export_gives_way():
    nodes = [node("Reshape", "images", "s", into="f"), node("Gemm", "f", "w")]
    module = module_of(nodes, {"s": ints(1, 144), "w": random(144, 5)}, (1, 4, 6, 6))
    images = torch.from_numpy(random(7, 4, 6, 6))
    torch.testing.assert_close(module(images), torch.cat([module(image[None]) for image in images]))


def test_an_unknown_operator_is_named_with_those_that_are_known():
    with pytest.raises(InputError, match=r"'Cos_y' in model\.onnx is a Cos.*knows Add, AveragePool"):
        module_of([node("Cos", "images")], {})


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"w": np.int8([[1]]), "s": np.float32(0)}, "scales of weight 'w' must be positive"),
        ({"w": np.float64([[1]]), "s": np.float32(1)}, "weight 'w' is float64, expected float32"),
    ],
)
def test_weights_that_cannot_be_moved_are_refused(stored, words):
    quantised = stored["w"].dtype == np.int8
    nodes = [node("DequantizeLinear", "w", "s", into="r")] if quantised else []
    with pytest.raises(InputError, match=words):
        module_of([*nodes, node("MatMul", "images", "r" if quantised else "w")], stored)


def test_training_mode_does_nothing():
    module = module_of(*CASES["BatchNormalization"][0])
    images = torch.from_numpy(random(3, 4, 6, 6))
    assert torch.equal(module.train()(images), module.eval()(images))


def real_images(name: str, n: int) -> torch.Tensor:
    spec = importlib.util.spec_from_file_location("bench_load", BENCH / "data" / "load.py")
    assert spec is not None
    assert spec.loader is not None
    load = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load)
    images = load.mnist("t10k")[0] if name.startswith("mnist") else load.cifar10("test")[0]
    return torch.from_numpy(images[:n].copy()).float() / 255


PAIRS = ["mnist_lenet-5", "mnist_simplecnn", "cifar-10_resnet20"]


@needs_bench
@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("kind", ["original", "distilled", "pruned"])
def test_real_float_models_equal_onnx_runtime(name, kind):
    path, images = BENCH / "models" / name / f"{kind}.onnx", real_images(name, 100)
    with torch.no_grad():
        scores = open_onnx_artifact(path).module(images)
    assert (scores - open_onnx(path)(images)).abs().max() < 1e-4


@needs_bench
@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_real_int8_models_give_the_labels_of_integer_kernels(name):
    path, images = BENCH / "models" / name / "int8.onnx", real_images(name, 500)
    with torch.no_grad():
        labels = open_onnx_artifact(path).module(images).argmax(-1)
    assert (labels == open_onnx(path)(images).argmax(-1)).float().mean() >= 0.995
