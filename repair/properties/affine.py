"""ONNX graphs of affine operators and rectifiers, run on affine expressions in place of numbers.

An expression says how a value follows from variables: float64 (1 + variables, *shape), the constant in the first row,
then one row of factors for each variable. What an affine operator makes of expressions, it makes of their rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from onnx import ModelProto
from torch import Tensor

from dflare.errors import InputError
from repair.onnx_models.node import Node, complete, read_nodes, stored_tensors, with_float_grids
from repair.onnx_models.operators import OPERATORS

Rectify = Callable[[Tensor], Tensor]
"""Expressions (1 + variables, n) -> those of max(0, .), with as many variables more as it takes, (1 + more, n)."""

LINEAR = {"Add", "Sub", "Concat"}
"""Operators that are affine in all operands together."""

ONE_OPERAND = {
    *("AveragePool", "BatchNormalization", "Conv", "Div", "Dropout", "Flatten", "Gather", "Gemm", "GlobalAveragePool"),
    *("Identity", "MatMul", "Mul", "Pad", "ReduceMean", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"),
}
"""Operators that are affine in one operand where the others are stored numbers."""

RECTIFIERS = ("Relu", "LeakyRelu")


@dataclass(frozen=True)
class Graph:
    """The nodes and stored tensors of an ONNX graph of one float32 input and one output."""

    path: Path
    nodes: list[Node]
    stored: dict[str, Tensor]
    input: str
    shape: tuple[int, ...]  # of one input
    output: str

    def scores(self, inputs: Tensor) -> Tensor:
        """The outputs (n, outputs) for inputs (n, inputs), in the type of the inputs, with gradients."""
        values: dict[str, Tensor | None] = {"": None, **self.constants(inputs.dtype)}
        values[self.input] = inputs.reshape(len(inputs), *self.shape)
        for node in self.nodes:
            values[node.outputs[0]] = OPERATORS[node.op](node, *[values[name] for name in node.inputs])
        found = values[self.output]
        assert found is not None
        return found.reshape(len(inputs), -1)

    def expressions(self, rectify: Rectify) -> Tensor:
        """Expressions of the outputs, (1 + variables, outputs); the first variables are the inputs.

        Raises `InputError` for what is neither affine nor a rectifier.
        """
        size = torch.Size(self.shape).numel()
        start = torch.cat([torch.zeros(1, size), torch.eye(size)]).double()
        known: dict[str, Tensor] = dict(self.constants(torch.float64))
        varying = {self.input: start.reshape(-1, *self.shape)}
        for node in self.nodes:
            if not varying.keys() & set(node.inputs):
                known[node.outputs[0]] = OPERATORS[node.op](node, *[known.get(name) for name in node.inputs])
            elif node.op in RECTIFIERS:
                varying[node.outputs[0]] = _rectified(node, varying[node.inputs[0]], rectify)
            else:
                self._check(node, varying)
                varying[node.outputs[0]] = _affine(node, [varying.get(n, known.get(n)) for n in node.inputs], varying)
        if self.output not in varying:
            raise InputError(f"the outputs of {self.path} must depend on its inputs, they do not")
        return varying[self.output].flatten(1)

    def constants(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The stored tensors, numbers with a fraction in this type."""
        return {name: one.to(dtype) if one.is_floating_point() else one for name, one in self.stored.items()}

    def _check(self, node: Node, varying: dict[str, Tensor]) -> None:
        moving = [name in varying for name in node.inputs]
        along = node.op == "Concat" and node.get("axis") == 0
        first = node.op in ("Add", "Sub", "Mul", "MatMul", "Concat") or (moving[0] and sum(moving) == 1)
        if (node.op in LINEAR and not along) or (node.op in ONE_OPERAND and first and sum(moving) == 1):
            return
        raise InputError(
            f"node {node.name or node.outputs[0]!r} ({node.op}) of {self.path} is neither affine nor a rectifier; "
            f"certificates are for networks of {', '.join(sorted({*LINEAR, *ONE_OPERAND, *RECTIFIERS}))}"
        )


def read_graph(model: ModelProto, path: Path) -> Graph:
    """The graph of a model; `path` is what errors name.

    Raises `InputError` for operators that are not known, and unless there are one float32 input, whose sizes after the
    first are fixed, and one output.
    """
    names = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in names]
    if len(inputs) != 1 or len(model.graph.output) != 1 or inputs[0].type.tensor_type.elem_type != 1:
        raise InputError(f"{path} must take one float32 input and return one output")
    dims = inputs[0].type.tensor_type.shape.dim
    shape = tuple(dim.dim_value for dim in dims[1:])
    if not shape or min(shape) < 1:
        raise InputError(f"the input of {path} must have fixed sizes after the first, got {shape}")
    stored = stored_tensors(model)
    batch = dims[0].dim_value or "n"
    nodes = [complete(node, stored, batch) for node in read_nodes(model, path, set(OPERATORS))]
    tensors = {name: torch.from_numpy(one.copy()) for name, one in with_float_grids(stored, nodes).items()}
    return Graph(path, nodes, tensors, inputs[0].name, shape, model.graph.output[0].name)


def _affine(node: Node, operands: list[Tensor | None], varying: dict[str, Tensor]) -> Tensor:
    """What an affine operator makes of expressions: f(rows) - f(0), and f of the constant."""
    moving = [name in varying for name in node.inputs]
    rows = max(len(one) for one, moves in zip(operands, moving, strict=True) if moves and one is not None)
    taken = [
        _with_zeros(one, rows) if moves and one is not None else one
        for one, moves in zip(operands, moving, strict=True)
    ]
    made = OPERATORS[node.op](node, *taken)
    return torch.cat([made[1:2], made[2:] - made[:1]])


def _with_zeros(rows: Tensor, length: int) -> Tensor:
    """A row of zeros before, and after as many as make `1 + length`."""
    before, after = (rows.new_zeros(n, *rows.shape[1:]) for n in (1, length - len(rows)))
    return torch.cat([before, rows, after])


def _rectified(node: Node, rows: Tensor, rectify: Rectify) -> Tensor:
    """max(0, x), or slope x + (1 - slope) max(0, x) for a leaky one of slope <= 1."""
    made = rectify(rows.flatten(1)).reshape(-1, *rows.shape[1:])
    if node.op == "Relu":
        return made
    slope = node.get("alpha", 0.01)
    return (1 - slope) * made + slope * _with_zeros(rows, len(made))[1:]
