"""Which scales of an int8 program can be trained, and where the program keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from repair.pt2_models.grids import DEQUANTIZERS, INTEGERS, QUANTIZERS, Step, step_of, stored
from repair.trainable import Scales


@dataclass(frozen=True)
class StoredScale:
    """A scale as it came in, and its places: a stored tensor, or a number in nodes of the graph."""

    start: Tensor  # float32: one number, or one a slice
    nodes: tuple[str, ...]  # the quantisers and dequantisers that say it, by name
    tensor: str | None = None  # the stored tensor that they read; None: they hold the number themselves
    weight: str | None = None  # whose scale it is; None: an activation's, whose limit it is

    def write(self, program: ExportedProgram, scale: Tensor) -> None:
        """Put another scale into the program."""
        if self.tensor is None:
            for node in program.graph.nodes:
                if node.name in self.nodes:
                    say_scale(node, float(scale))
            program.graph_module.recompile()
            return
        tensors = program.state_dict if self.tensor in program.state_dict else program.constants
        tensors[self.tensor] = torch.empty_like(tensors[self.tensor]).copy_(scale.reshape(tensors[self.tensor].shape))

    def read(self, program: ExportedProgram) -> Tensor:
        """The scale that a program has there; raises `ValueError` where its nodes do not say one float32 number."""
        if self.tensor is not None:
            return {**program.constants, **program.state_dict}[self.tensor].detach()
        said = {step_of(node).scale for node in program.graph.nodes if node.name in self.nodes}
        if len(said) != 1 or not all(map(_is_number, said)):
            raise ValueError(f"expected one scale in {', '.join(self.nodes)}, found {sorted(map(str, said))}")
        return torch.tensor(said.pop(), dtype=torch.float32)


def find_scales(graph: fx.GraphModule, weights: Mapping[str, object], which: Scales) -> dict[str, StoredScale]:
    """Name for a parameter -> scale that can be trained: all of them, activations' alone, or none.

    Of activations those that the graph says as float32 numbers, for whole tensors; those on equal grids stay on one
    (a pooling and what it pools). Not the image's, which lies on a grid of bytes already. Of weights (not int32
    biases) those that nothing else uses.
    """
    found = _limits(graph) if which is not Scales.fixed else {}
    if which is Scales.all:
        found |= _weight_scales(graph, weights)
    return found


def _limits(graph: fx.GraphModule) -> dict[str, StoredScale]:
    groups: dict[tuple[object, ...], list[fx.Node]] = {}
    for node in graph.graph.nodes:
        if str(node.target) in QUANTIZERS and step_of(node).axis is None and _is_number(step_of(node).scale):
            groups.setdefault(tuple(map(str, step_of(node).grid)), []).append(node)
    found = {}
    for nodes in groups.values():
        if all(step_of(node).input.op == "call_function" for node in nodes):
            names = [name for node in nodes for name in (node.name, *(user.name for user in node.users))]
            start = torch.tensor(step_of(nodes[0]).scale, dtype=torch.float32)
            found[f"{nodes[0].name}_scale"] = StoredScale(start, tuple(names))
    return found


def _weight_scales(graph: fx.GraphModule, weights: Mapping[str, object]) -> dict[str, StoredScale]:
    readers: dict[str, list[fx.Node]] = {}
    for node in graph.graph.nodes:
        if str(node.target) in DEQUANTIZERS and step_of(node).input.op == "get_attr":
            readers.setdefault(str(step_of(node).input.target), []).append(node)
    found = {}
    for name in weights:
        nodes, integers = readers[name], stored(graph, name)
        scale = _weight_scale(graph, step_of(nodes[0]), nodes)
        if scale is not None and integers.dtype in INTEGERS - {torch.int32}:
            start, tensor = scale
            names = tuple(node.name for node in nodes)
            found[f"{name.replace('.', '_')}_scale"] = StoredScale(start, names, tensor, name)
    return found


def _weight_scale(graph: fx.GraphModule, step: Step, nodes: list[fx.Node]) -> tuple[Tensor, str | None] | None:
    """The scale that nodes of one grid say, and the stored tensor that it is; None where something else reads it."""
    if _is_number(step.scale):
        return torch.tensor(step.scale, dtype=torch.float32), None
    if not isinstance(step.scale, fx.Node) or step.scale.op != "get_attr":
        return None
    name = str(step.scale.target)
    value = stored(graph, name)
    users = {user for node in graph.graph.nodes if node.op == "get_attr" and node.target == name for user in node.users}
    return (value.detach().clone(), name) if users == set(nodes) and value.dtype == torch.float32 else None


def say_scale(node: fx.Node, scale: float | fx.Node) -> None:
    """Make a quantiser or a dequantiser use another scale."""
    if "scale" in node.kwargs:
        node.update_kwarg("scale", scale)
    else:
        node.update_arg(1, scale)


def _is_number(value: object) -> bool:
    """Whether it is a number that float32 holds."""
    return isinstance(value, float) and float(np.float32(value)) == value
