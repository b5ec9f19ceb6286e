"""A toy int8 ONNX pair in which one activation's grid is far too coarse, for tests of mixed precision.

Its images are 8 x 8 and in colour, as those of the toy images in tests/experiments."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

COARSE, FINE = 0.6, 0.016
"""Steps of the two grids; scores of two classes lie 0.16 apart or more on the toy images."""

SIZE = 8


def original() -> onnx.ModelProto:
    """Images (n, 3, 8, 8) -> three scores, 20 times each colour's mean less that of all; the pair's weights, no grids.

    On their way, `h` holds mixed colours: rounding these can bring the scores into another order.
    """
    nodes = [node for node in _nodes() if node.op_type == "DequantizeLinear" and node.input[0].startswith("w")]
    make = helper.make_node
    nodes += [
        make("Flatten", ["images"], ["f"]),
        make("Gemm", ["f", "w1.r"], ["h"], transB=1),
        make("Gemm", ["h", "w2.r"], ["g"], transB=1),
        make("Gemm", ["g", "w3.r"], ["scores"], transB=1),
    ]
    return _built(nodes, {name: value for name, value in _stored(COARSE).items() if name.startswith("w")})


def compressed(coarse: float = COARSE) -> onnx.ModelProto:
    """The same with three rounded activations: the images, `h` with the coarse grid, and `g` with a fine one."""
    return _built(_nodes(), _stored(coarse))


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def _nodes() -> list[onnx.NodeProto]:
    make, nodes = helper.make_node, []
    for name in ("w1", "w2", "w3"):
        nodes.append(make("DequantizeLinear", [name, f"{name}.s"], [f"{name}.r"]))
    for name, rounded in (("images", "x"), ("h", "h"), ("g", "g")):
        grid = [f"{rounded}.s", f"{rounded}.z"]
        nodes.append(make("QuantizeLinear", [name, *grid], [f"{rounded}.q"]))
        nodes.append(make("DequantizeLinear", [f"{rounded}.q", *grid], [f"{rounded}.d"]))
        nodes += {
            "x": [make("Flatten", ["x.d"], ["f"]), make("Gemm", ["f", "w1.r"], ["h"], transB=1)],
            "h": [make("Gemm", ["h.d", "w2.r"], ["g"], transB=1)],
            "g": [make("Gemm", ["g.d", "w3.r"], ["scores"], transB=1)],
        }[rounded]
    return nodes


def _stored(coarse: float) -> dict[str, np.ndarray]:
    pixels = SIZE * SIZE
    mixed = np.array([[1, 0, 0], [0.37, 1, 0], [0.61, 0.29, 1]])
    apart = (np.eye(3) - 1 / 3) @ np.linalg.inv(mixed)
    return {
        "w1": np.round(100 * mixed.repeat(pixels, 1)).astype(np.int8),  # (3, values)
        "w1.s": np.float32(20 / pixels / 100),
        "w2": np.round(100 * apart).astype(np.int8),
        "w2.s": np.float32(0.01),
        "w3": np.eye(3, dtype=np.int8) * 100,
        "w3.s": np.float32(0.01),
        "x.s": np.float32(1 / 255),
        "x.z": np.uint8(0),
        "h.s": np.float32(coarse),
        "h.z": np.uint8(128),
        "g.s": np.float32(FINE),
        "g.z": np.uint8(128),
    }


def _built(nodes: list[onnx.NodeProto], stored: dict[str, np.ndarray]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
