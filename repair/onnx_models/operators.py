"""ONNX operators in PyTorch, differentiable, one small function each, after the ONNX operator specification.

An operator takes its node and its inputs (None where an optional one is left out) and returns the first output.
Quantised activations are float tensors of whole numbers, so that gradients pass; `OPERATORS` lists what there is.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from repair.onnx_models import shapes
from repair.onnx_models.node import Node
from repair.onnx_models.quantization import dequantize, quantize
from repair.onnx_models.windows import average_pool, conv, max_pool
from repair.signs import sign

Operator = Callable[..., Tensor]


def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a, b = (a.T if node.get("transA") else a), (b.T if node.get("transB") else b)
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    product = a @ b if alpha == 1 else alpha * (a @ b)
    return product if c is None else product + (c if beta == 1 else beta * c)


def _clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    low, high = node.get("min") if low is None else low, node.get("max") if high is None else high
    return x if low is None and high is None else x.clamp(low, high)


def _reduce_mean(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = shapes.axes_of(node, axes)
    if not chosen and node.get("noop_with_empty_axes"):
        return x
    return x.mean(chosen or list(range(x.ndim)), keepdim=bool(node.get("keepdims", 1)))


def _global_average_pool(node: Node, x: Tensor) -> Tensor:
    return x.mean(list(range(2, x.ndim)), keepdim=True)


def _batch_norm(node: Node, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    if node.get("training_mode"):
        raise node.refuse("training mode")
    return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=node.get("epsilon", 1e-5))


def _softmax(node: Node, x: Tensor) -> Tensor:
    function = F.log_softmax if node.op == "LogSoftmax" else F.softmax
    if node.opset >= 13:
        return function(x, dim=node.get("axis", -1))
    return function(shapes.flatten(node, x), dim=-1).reshape(x.shape)  # older: over all dimensions from `axis` on


OPERATORS: dict[str, Operator] = {
    "Add": lambda node, a, b: a + b,
    "AveragePool": average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": shapes.cast,
    "Clip": _clip,
    "Concat": shapes.concat,
    "Conv": conv,
    "DequantizeLinear": dequantize,
    "Div": lambda node, a, b: a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc"),
    "Dropout": lambda node, x, *rest: x,
    "Flatten": shapes.flatten,
    "Gather": shapes.gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "HardSigmoid": lambda node, x: (node.get("alpha", 0.2) * x + node.get("beta", 0.5)).clamp(0, 1),
    "HardSwish": lambda node, x: F.hardswish(x),
    "Identity": lambda node, x: x,
    "LeakyRelu": lambda node, x: F.leaky_relu(x, node.get("alpha", 0.01)),
    "LogSoftmax": _softmax,
    "MatMul": lambda node, a, b: a @ b,
    "MaxPool": max_pool,
    "Mul": lambda node, a, b: a * b,
    "Pad": shapes.pad,
    "QuantizeLinear": quantize,
    "ReduceMean": _reduce_mean,
    "Relu": lambda node, x: x.relu(),
    "Reshape": shapes.reshape,
    "Shape": shapes.shape_of,
    "Sigmoid": lambda node, x: x.sigmoid(),
    "Sign": lambda node, x: sign(x),
    "Slice": shapes.cut,
    "Softmax": _softmax,
    "Squeeze": shapes.squeeze,
    "Sub": lambda node, a, b: a - b,
    "Tanh": lambda node, x: x.tanh(),
    "Transpose": shapes.transpose,
    "Unsqueeze": shapes.unsqueeze,
}
"""Operators that a repair can go through, by ONNX name; `Constant` is read beforehand."""
