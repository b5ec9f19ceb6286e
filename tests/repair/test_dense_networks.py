"""Fully connected networks: read from ONNX, written back into a copy of the file, and answered by ONNX Runtime."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from dflare.errors import InputError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import helper, numpy_helper  # noqa: E402

from repair.onnx_models.difference import graph_difference  # noqa: E402
from repair.properties.dense import ACTIVATIONS, fold_factors  # noqa: E402
from repair.properties.networks import open_network, run_onnx  # noqa: E402
from repair.properties.writing import save_network  # noqa: E402

BENCH = Path(os.environ.get("DFLARE_BENCH", Path(__file__).parents[2].parent / "shared"))
ACASXU = BENCH / "data" / "acasxu" / "onnx"
RNG = np.random.default_rng(0)
STORED = {
    "mean": np.float32([0.1, 0.2, 0.3]),
    "w0": RNG.standard_normal((3, 4)).astype(np.float32),
    "b0": np.float32([0.1, -0.2, 0.3, 0.0]),
    "w1": RNG.standard_normal((2, 4)).astype(np.float32),
    "b1": np.float32([0.5, -0.5]),
}
FLAT = ("Flatten", ["shifted"], ["flat"], {"axis": 1})
FIRST = [("MatMul", ["flat", "w0"], ["m"], {}), ("Add", ["b0", "m"], ["a"], {})]
LAST = ("Gemm", ["h", "w1", "b1"], ["scores"], {"transB": 1})


def save(path: Path, nodes: list[tuple], shape: tuple = ("n", 3), stored: dict = STORED, opset: int = 13) -> Path:
    """Inputs of that shape -> scores (n, 2)."""
    made = [helper.make_node(op, takes, gives, name=gives[0], **settings) for op, takes, gives, settings in nodes]
    ends = (
        [helper.make_tensor_value_info("inputs", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, [shape[0], 2])],
    )
    tensors = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    model = helper.make_model(
        helper.make_graph(made, "net", *ends, tensors), opset_imports=[helper.make_opsetid("", opset)], ir_version=8
    )
    onnx.save(model, path)
    return path


def chain(activation: str = "Relu", **settings: float) -> list[tuple]:
    return [("Sub", ["inputs", "mean"], ["shifted"], {}), FLAT, *FIRST, (activation, ["a"], ["h"], settings), LAST]


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation_is_read_as_onnx_runtime_reads_it(activation: str, tmp_path: Path):
    settings = {"alpha": 0.3} if activation in ("LeakyRelu", "Elu") else {}
    path = save(tmp_path / "net.onnx", chain(activation, **settings))
    network = open_network(path).network
    inputs = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert (network.inputs, network.outputs) == (3, 2)
    assert torch.allclose(network(inputs), run_onnx(path, inputs), atol=1e-6)
    values = inputs - torch.tensor(STORED["mean"])
    hidden = values @ torch.tensor(STORED["w0"]) + torch.tensor(STORED["b0"])
    function, defaults = ACTIVATIONS[activation]
    by_hand = function(hidden, **(defaults | settings)) @ torch.tensor(STORED["w1"]).T + torch.tensor(STORED["b1"])
    assert torch.allclose(network(inputs), by_hand, atol=1e-6)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_a_network_of_our_own_is_written_and_read_back(activation: str, tmp_path: Path):
    settings = {"alpha": 0.3} if activation in ("LeakyRelu", "Elu") else {}
    network = open_network(save(tmp_path / "net.onnx", chain(activation, **settings))).network
    save_network(network, tmp_path / "own.onnx")
    again = open_network(tmp_path / "own.onnx").network
    assert again.activations == network.activations
    inputs = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(inputs), network(inputs))


def test_unchanged_weights_leave_the_file_as_it_is(tmp_path: Path):
    opened = open_network(save(tmp_path / "net.onnx", chain()))
    opened.write(opened.network.weights(), tmp_path / "same.onnx")
    assert graph_difference(tmp_path / "net.onnx", tmp_path / "same.onnx") == []


def test_repaired_weights_are_written_and_nothing_else(tmp_path: Path):
    opened = open_network(save(tmp_path / "net.onnx", chain("Tanh")))
    weights = {name: value + 0.25 for name, value in opened.network.weights().items()}
    opened.write(weights, tmp_path / "new.onnx")
    assert sorted(graph_difference(opened.path, tmp_path / "new.onnx")) == [
        f"data of initialiser {name!r} differ" for name in ("b0", "b1", "w0", "w1")
    ]
    inputs = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))
    written = run_onnx(tmp_path / "new.onnx", inputs)
    assert torch.allclose(opened.network.with_weights(weights)(inputs), written, atol=1e-6)
    assert not torch.allclose(opened.network(inputs), written, atol=0.1)


def test_a_fixed_batch_size_is_asked_all_the_same(tmp_path: Path):
    reshape = ("Reshape", ["shifted", "to"], ["flat"], {})
    nodes = [("Sub", ["inputs", "mean"], ["shifted"], {}), reshape, *FIRST, ("Relu", ["a"], ["h"], {}), LAST]
    stored = STORED | {"to": np.int64([1, 3])}
    one = save(tmp_path / "one.onnx", nodes, (1, 1, 1, 3), stored)
    free = save(tmp_path / "free.onnx", chain())
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(run_onnx(one, inputs), run_onnx(free, inputs), atol=1e-6)
    assert torch.allclose(open_network(one).network(inputs), run_onnx(free, inputs), atol=1e-6)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_factors_are_folded_into_the_weights(activation: str, tmp_path: Path):
    network = open_network(save(tmp_path / "net.onnx", chain(activation))).network
    inputs = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))
    factor = torch.tensor([1.0, 0.0, -2.0, 1.5])
    folded = network.with_weights(fold_factors(network, [factor]))(inputs)
    assert torch.allclose(folded, network.finish(network.hidden(inputs)[0] * factor, 0), atol=1e-6)
    unchanged = network.with_weights(fold_factors(network, [torch.ones(4)]))(inputs)
    assert torch.equal(unchanged, network(inputs))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([*chain()[:4], ("Softplus", ["a"], ["h"], {}), LAST], r"h'? \(Softplus\): expected linear layers"),
        ([*chain()[:-1], ("MatMul", ["w2", "h"], ["scores"], {})], r"\(MatMul\): expected linear layers"),
        ([*chain()[:-1], ("Gemm", ["h", "w1", "b1"], ["scores"], {"transB": 1, "alpha": 0.5})], r"without factors"),
        ([*chain()[:4], ("Add", ["a", "m"], ["h"], {}), LAST], r"\(Add\): expected linear layers with one activation"),
        ([*chain()[:-1], ("Relu", ["h"], ["scores"], {})], r"\(Relu\): expected linear layers with one activation"),
    ],
)
def test_what_is_no_chain_is_refused(nodes: list[tuple], message: str, tmp_path: Path):
    path = save(tmp_path / "net.onnx", nodes, stored=STORED | {"w2": np.ones((1, 1), np.float32)})
    with pytest.raises(InputError, match=message):
        open_network(path)


def test_a_network_of_nan_is_refused(tmp_path: Path):
    path = save(tmp_path / "net.onnx", chain(), stored=STORED | {"b1": np.float32([np.nan, 0])})
    with pytest.raises(InputError, match=r"must answer with finite numbers, got NaN or infinity"):
        open_network(path)


def test_weights_that_do_not_belong_are_refused(tmp_path: Path):
    opened = open_network(save(tmp_path / "net.onnx", chain()))
    weights = opened.network.weights()
    with pytest.raises(ValueError, match=r"weights must be named .*got \['layers.0.bias'\]"):
        opened.write({"layers.0.bias": weights["layers.0.bias"]}, tmp_path / "new.onnx")
    with pytest.raises(InputError, match=r"weights must be finite .*b0 holds NaN"):
        opened.write(weights | {"layers.0.bias": torch.full((4,), torch.nan)}, tmp_path / "new.onnx")
    with pytest.raises(ValueError, match=r"w1 must have shape \(2, 4\)"):
        opened.write(weights | {"layers.1.weight": torch.zeros(4, 2)}, tmp_path / "new.onnx")
    assert not list(tmp_path.glob("*new*"))


@pytest.mark.skipif(not ACASXU.is_dir(), reason=f"needs the networks in {ACASXU} (set DFLARE_BENCH)")
def test_acas_xu_is_read_and_written_bit_for_bit(tmp_path: Path):
    opened = open_network(ACASXU / "ACASXU_run2a_1_9_batch_2000.onnx")
    assert [layer.out_features for layer in opened.network.layers] == [50] * 6 + [5]
    opened.write(opened.network.weights(), tmp_path / "same.onnx")
    assert (tmp_path / "same.onnx").read_bytes() == opened.path.read_bytes()
