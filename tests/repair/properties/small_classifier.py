"""A small convolutional classifier in an ONNX file, for claims about it."""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper


def save_classifier(path: Path, seed: int = 0, order: tuple[int, ...] = (0, 1, 2), softmax: bool = False) -> Path:
    """Images (n, 1, 4, 4) -> 3 scores, or probabilities: conv, ReLU, average pooling, linear; classes in `order`."""
    rng = np.random.default_rng(seed)
    weights = {
        "kernel": rng.standard_normal((2, 1, 3, 3)),
        "shift": rng.standard_normal(2) / 4,
        "weight": rng.standard_normal((3, 8))[list(order)],
        "bias": rng.standard_normal(3)[list(order)] / 4,
    }
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    tensors.append(numpy_helper.from_array(np.int64([-1, 8]), "flat"))
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel", "shift"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("AveragePool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Reshape", ["p", "flat"], ["f"]),
        helper.make_node("Gemm", ["f", "weight", "bias"], ["raw" if softmax else "said"], transB=1),
        *([helper.make_node("Softmax", ["raw"], ["said"], axis=1)] if softmax else []),
    ]
    ends = [
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)]
        for name, shape in (("pixels", ["n", 1, 4, 4]), ("said", ["n", 3]))
    ]
    graph = helper.make_graph(nodes, "small", *ends, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path
