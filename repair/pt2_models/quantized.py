"""Int8 `.pt2` programs (PT2E) made trainable: the program's own graph, computed in floats that lie on its grids."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from dflare.errors import InputError
from repair.compression import Projection
from repair.integers.scales import Rescaled, Scale
from repair.pt2_models.fake_quantize import fake_quantize_per_channel, fake_quantize_per_tensor
from repair.pt2_models.grids import DEQUANTIZERS, QUANTIZERS, Step, find_weights, step_of
from repair.pt2_models.scales import StoredScale, find_scales, say_scale
from repair.trainable import Scales

FAMILIES = ("quantized_decomposed.", "torchao.", "pt2e_quant.", "quantized.")
"""Beginnings of the names of operators that compute with integers in place of floats."""

RANGES = {"quantized_decomposed.choose_qparams.tensor", "quantized_decomposed.choose_qparams_symmetric.tensor"}
"""Operators that compute scale and zero point from an activation, which no gradient goes through."""


def is_quantized(program: ExportedProgram) -> bool:
    """Whether a program computes with integers in place of floats somewhere."""
    graphs = [part for part in program.graph_module.modules() if isinstance(part, fx.GraphModule)]
    return any(_operator(node).startswith(FAMILIES) for graph in graphs for node in graph.graph.nodes)


class Graph(NamedTuple):
    """A program as a module, what its parameters are projected by, and which of these are scales."""

    module: fx.GraphModule
    grids: dict[str, Projection]
    scales: dict[str, StoredScale]


def trainable_graph(program: ExportedProgram, path: Path, which: Scales = Scales.fixed) -> Graph:
    """The program as a module that answers as it does, bit for bit, and whose weights can be trained.

    Integer weights become float32 parameters of the same name, with their grids beside them; every quantiser of an
    activation, with its dequantiser, becomes a straight-through one. Biases of convolutions and linear layers are
    trained also where the file marks them as frozen, as folding a normalisation into them does. The scales asked for
    become parameters too, the logarithms that `Scale` takes, with no gradient until they are set free.
    Raises `InputError`, which names `path`, for operators that a gradient cannot be led through.
    """
    graph = program.module()
    assert isinstance(graph, fx.GraphModule)
    _check_operators(graph, path)
    try:
        weights = find_weights(graph)
    except (RuntimeError, AssertionError, ValueError, IndexError, TypeError) as error:
        raise _refusal(path, f"its weights cannot be dequantised, {str(error).strip().splitlines()[0]}") from error
    scales = find_scales(graph, weights, which)
    for name, (weight, _) in weights.items():
        _delete(graph, name).register_parameter(name.rpartition(".")[2], nn.Parameter(weight))
    for node in _calls(graph, DEQUANTIZERS):
        if str(step_of(node).input.target) in weights:
            _replace(graph, node, step_of(node).input)
    for node in _calls(graph, RANGES):
        _hold_back_gradients(graph, node)
    for name, scale in scales.items():
        if scale.weight is None:
            _read_scale(graph, name, scale)
    for node in _calls(graph, QUANTIZERS):
        _pass_gradients(graph, node, path)
    _drop_unread(graph)
    for bias in _biases(graph):
        bias.requires_grad_(True)
    for name, scale in scales.items():
        graph.register_parameter(name, nn.Parameter(torch.zeros_like(scale.start), requires_grad=False))
    graph.graph.lint()
    graph.recompile()
    grids: dict[str, Projection] = {name: grid for name, (_, grid) in weights.items()}
    for name, scale in scales.items():
        grids[name] = Scale(scale.start)
        if scale.weight is not None:
            grids[scale.weight] = Rescaled(weights[scale.weight][1], {name: scale.start}, gain=True)
    return Graph(graph, grids, scales)


def _calls(graph: fx.GraphModule, names: Collection[str]) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if _operator(node) in names]


def _operator(node: fx.Node) -> str:
    """The name of an operator; nothing for weights and inputs, which may be called anything."""
    return str(node.target) if node.op == "call_function" else ""


def _check_operators(graph: fx.GraphModule, path: Path) -> None:
    """Raise `InputError` for an operator on integers that is not known, or that stands where no pass reaches it."""
    for part in graph.modules():
        for node in part.graph.nodes if isinstance(part, fx.GraphModule) else ():
            name = _operator(node)
            if name.startswith(FAMILIES) and (part is not graph or name not in QUANTIZERS | DEQUANTIZERS | RANGES):
                where = "" if part is graph else " in a graph within the graph"
                raise _refusal(path, f"a gradient cannot be led through its operator {name}{where}")


def _pass_gradients(graph: fx.GraphModule, quantizer: fx.Node, path: Path) -> None:
    """Put straight-through functions in place of a quantiser and its dequantisers."""
    step = step_of(quantizer)
    if not step.sound:
        raise _refusal(path, f"{quantizer.name} quantises to {step.low} … {step.high} of {step.dtype}")
    for node in list(quantizer.users):
        if str(node.target) not in DEQUANTIZERS or step_of(node).grid != step.grid:
            raise _refusal(
                path, f"{quantizer} must be followed by a dequantiser to float32 on its own grid, not by {node}"
            )
        function, args = _straight_through(step)
        with graph.graph.inserting_before(node):
            _replace(graph, node, graph.graph.call_function(function, args))
    graph.graph.erase_node(quantizer)


def _read_scale(graph: fx.GraphModule, name: str, scale: StoredScale) -> None:
    """Let quantisers and dequantisers read a parameter in place of the number that they hold."""
    graph.register_parameter(name, nn.Parameter(scale.start.clone()))
    nodes = [node for node in graph.graph.nodes if node.name in scale.nodes]
    with graph.graph.inserting_before(nodes[0]):
        reading = graph.graph.get_attr(name)
    for node in nodes:
        say_scale(node, reading)


def _straight_through(step: Step) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    if step.axis is None:
        return fake_quantize_per_tensor, (step.input, step.scale, step.zero_point, step.low, step.high)
    return fake_quantize_per_channel, (step.input, step.scale, step.zero_point, step.axis, step.low, step.high)


def _hold_back_gradients(graph: fx.GraphModule, node: fx.Node) -> None:
    with graph.graph.inserting_before(node):
        detached = graph.graph.call_function(torch.ops.aten.detach.default, (node.args[0],))
    node.args = (detached, *node.args[1:])


def _replace(graph: fx.GraphModule, node: fx.Node, other: Any) -> None:
    node.replace_all_uses_with(other)
    graph.graph.erase_node(node)


def _drop_unread(graph: fx.GraphModule) -> None:
    """Take out of the module what its graph does not read, such as the floats that integers were made from."""
    for node in [node for node in graph.graph.nodes if node.op == "get_attr" and not node.users]:
        graph.graph.erase_node(node)
    read = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    for name in {name for name, _ in graph.named_parameters()} - read:
        _delete(graph, name)


def _delete(graph: fx.GraphModule, name: str) -> nn.Module:
    """Take a stored tensor out of the module; what held it."""
    folder, _, leaf = name.rpartition(".")
    holder = graph.get_submodule(folder)
    delattr(holder, leaf)
    return holder


def _biases(graph: fx.GraphModule) -> list[nn.Parameter]:
    """Parameters that convolutions and linear layers add."""
    names = {
        str(argument.target)
        for node in graph.graph.nodes
        if hasattr(node.target, "_schema")
        for said, argument in zip(node.target._schema.arguments, node.args, strict=False)
        if said.name == "bias" and isinstance(argument, fx.Node) and argument.op == "get_attr"
    }
    return [parameter for name, parameter in graph.named_parameters() if name in names]


def _refusal(path: Path, reason: str) -> InputError:
    return InputError(f"the int8 program in {path} cannot be repaired: {reason}")
