"""A small net with rounded activations, and the same without rounding, for tests of more bits."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from repair.onnx_models.activations import find_activations, grids


def net(opset: int = 18, signed: bool = False, scale: float = 0.05, domain: str = "") -> onnx.ModelProto:
    """Images (n, 1, 6, 6) -> convolution, ReLU, pooling on the same grid, linear layer with rounded scores."""
    rng, whole = np.random.default_rng(0), np.int8 if signed else np.uint8
    stored = {
        "x.s": np.float32(1 / 255),
        "x.z": whole(-128 if signed else 0),
        "conv.w": rng.integers(-100, 100, (4, 1, 3, 3)).astype(np.int8),
        "conv.s": np.float32([0.01, 0.02, 0.005, 0.01]),
        "conv.z": np.zeros(4, np.int8),
        "conv.b": rng.integers(-2000, 2000, 4).astype(np.int32),
        "conv.bs": np.float32([0.01, 0.02, 0.005, 0.01]) / np.float32(255),
        "h.s": np.float32(scale),
        "h.z": whole(-125 if signed else 3),
        "fc.w": rng.integers(-100, 100, (3, 16)).astype(np.int8),
        "fc.s": np.float32(0.003),
        "fc.z": np.int8(0),
        "y.s": np.float32(0.1),
        "y.z": whole(0 if signed else 128),
    }
    make, at = helper.make_node, {"domain": domain}
    nodes = [
        make("DequantizeLinear", ["conv.w", "conv.s", "conv.z"], ["conv.wr"], axis=0),
        make("DequantizeLinear", ["conv.b", "conv.bs"], ["conv.br"], axis=0),
        make("DequantizeLinear", ["fc.w", "fc.s", "fc.z"], ["fc.wr"]),
        make("QuantizeLinear", ["images", "x.s", "x.z"], ["x.q"]),
        make("DequantizeLinear", ["x.q", "x.s", "x.z"], ["x.d"]),
        make("Conv", ["x.d", "conv.wr", "conv.br"], ["c"]),
        make("Relu", ["c"], ["r"]),
        make("QuantizeLinear", ["r", "h.s", "h.z"], ["h.q"], **at),
        make("DequantizeLinear", ["h.q", "h.s", "h.z"], ["h.d"], **at),
        make("MaxPool", ["h.d"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        make("QuantizeLinear", ["p", "h.s", "h.z"], ["p.q"], **at),
        make("DequantizeLinear", ["p.q", "h.s", "h.z"], ["p.d"], **at),
        make("Flatten", ["p.d"], ["f"]),
        make("Gemm", ["f", "fc.wr"], ["s"], transB=1),
        make("QuantizeLinear", ["s", "y.s", "y.z"], ["y.q"]),
        make("DequantizeLinear", ["y.q", "y.s", "y.z"], ["scores"]),
    ]
    return built(nodes, stored, opset, domain)


def built(nodes: list[onnx.NodeProto], stored: dict[str, np.ndarray], opset: int, domain: str = "") -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 1, 6, 6])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def pixels(n: int = 200, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 1, 6, 6), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def stored_in(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def names_of(model: onnx.ModelProto) -> list[str]:
    return [name for group in grids(model) for name in group]


def float_net() -> onnx.ModelProto:
    """The net with weights as they are and no activation rounded: what more bits should come close to."""
    model, gone = net(), {}
    for activation in find_activations(model):
        for reader in activation.readers:
            gone[model.graph.node[reader].output[0]] = activation.name
    kept = [node for node in model.graph.node if node.name or node.input[0] not in {"r", "p", "s", "images"}]
    kept = [node for node in kept if node.op_type != "DequantizeLinear" or node.input[0] in stored_in(model)]
    kept = [node for node in model.graph.node if node in kept or node.op_type in ("MaxPool", "Relu", "Conv")]
    for node in kept:
        node.input[:] = [gone.get(name, name) for name in node.input]
        node.output[:] = ["scores" if name == "s" else name for name in node.output]
    return built(kept, stored_in(model), 18)
