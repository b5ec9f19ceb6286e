"""What a `.pt2` file says of itself."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from dflare.fingerprints.stored import Contents, Stored
from dflare.models.exported import load_program

GRIDS = ("quantized_decomposed.", "torchao.", "pt2e_quant.")
"""Beginnings of the operators whose first input is quantised, and whose others are its grid."""


def exported_contents(path: Path) -> Contents:
    """The contents of a `.pt2` file; `dead_bytes` are those of tensors in it that no operator reads.

    An int8 program often carries the float weights that it was made from. Raises `InputError` for another file.
    """
    program = load_program(path)
    read = {name: node for node, name in _placeholders(program) if node.users}
    stored = {**program.state_dict, **program.constants}
    tensors = {name: value for name, value in stored.items() if isinstance(value, Tensor)}
    used = [(tensors[name], node) for name, node in read.items() if name in tensors]
    live = {_place(tensor) for tensor, _ in used}
    dead = {_place(tensor): tensor.nbytes for tensor in tensors.values() if _place(tensor) not in live}
    outputs = next(node for node in program.graph.nodes if node.op == "output").args[0]
    return Contents(
        [_interface(node) for node in program.graph.nodes if node.name in program.graph_signature.user_inputs],
        [_interface(node) for node in outputs if isinstance(node, fx.Node)],
        Counter(name for node in program.graph.nodes if (name := _operator(node))),
        [Stored(_type_name(tensor.dtype), tuple(tensor.shape), _role(node)) for tensor, node in used],
        {"dead_bytes": sum(dead.values())},
    )


def _placeholders(program: ExportedProgram) -> list[tuple[fx.Node, str]]:
    """The graph's inputs that are stored in the file, with the names under which they are."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    specs = program.graph_signature.input_specs
    return [(nodes[spec.arg.name], spec.target) for spec in specs if spec.target is not None]


def _role(node: fx.Node) -> str:
    """What a stored tensor is read as: as a value if by one operator."""
    return "grid" if all(_is_grid(node, user) for user in node.users) else _bias_or_value(node)


def _bias_or_value(node: fx.Node) -> str:
    """Integers that one of the operators on grids turns into floats may be biases."""
    return "bias" if any(_operator(user).startswith(GRIDS) for user in node.users) else "value"


def _is_grid(node: fx.Node, user: fx.Node) -> bool:
    """Whether an operator reads a tensor as its scale, its zero point, or as a running statistic."""
    name = _operator(user)
    if "batch_norm" in name:
        return node in user.args[3:5]
    return name.startswith(GRIDS) and bool(user.args) and node is not user.args[0]


def _operator(node: fx.Node) -> str:
    """An operator's name without its overload, such as "aten.conv2d"."""
    return str(node.target.overloadpacket) if isinstance(node.target, torch._ops.OpOverload) else ""


def _interface(node: fx.Node) -> dict[str, Any]:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return {"name": node.name, "type": None, "shape": None}
    shape = [size if isinstance(size, int) else str(size) for size in value.shape]
    return {"name": node.name, "type": _type_name(value.dtype), "shape": shape}


def _place(tensor: Tensor) -> tuple[int, torch.Size]:
    """Where a tensor's numbers are: two names of one place are one tensor."""
    return tensor.data_ptr(), tensor.shape


def _type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
