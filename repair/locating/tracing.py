"""A model run step by step: what it computes in between can be kept, changed, or left unrounded."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from dflare.errors import InputError
from dflare.models.grids import Grid, quantised

Change = Callable[[Tensor], Tensor]
"""What stands in for an intermediate value (n, ...), same shape."""

TURNS = {"Transpose", "t", "transpose", "permute"}
ROUNDS = {"fake_quantize_per_tensor", "fake_quantize_per_channel"}
"""Roundings in exported programs, as `pt2_fake_quantize` has them."""

PASSES = TURNS | ROUNDS | {"Identity"}
"""Operators between a weight and the layer that reads it; those that turn it swap its dimensions."""

RIGHT = {"MatMul", "matmul", "mm", "addmm"}
"""Operators that multiply with a matrix from the right, whose output channels are its last dimension."""


@dataclass(frozen=True)
class Step:
    """One operator of a model's graph; values go by their names in the graph, parameters by those in the module."""

    op: str  # without domain, overload or trailing underscore: Conv, conv2d
    name: str
    reads: tuple[str, ...]  # values that are no parameters and no constants
    output: str
    parameters: tuple[str, ...] = ()  # those that it reads, in order
    last: bool = False  # whether the output channels are the last dimension of its weight, not the first
    rounds: bool = False  # whether it rounds activations to a grid


@dataclass
class Asked:
    """What one run is asked for beside its answers."""

    change: Mapping[str, Change] = field(default_factory=dict)  # value -> what to make of it
    weights: Mapping[str, Tensor] = field(default_factory=dict)  # parameter -> another weight
    unrounded: Collection[str] = ()  # outputs of rounding steps that stay real numbers, clamped as before
    keep: Collection[str] = ()  # values to hand back
    kept: dict[str, Tensor] = field(default_factory=dict)  # filled by the run


class Trace(Protocol):
    """A module whose steps are known."""

    steps: list[Step]
    batches: tuple[int, int]  # least and most images that a run takes
    names: dict[str, str]  # parameter -> what the file calls it, where that is something else

    def run(self, values: Tensor, asked: Asked) -> Tensor:
        """The module's answers (n, ...) to values (n, ...); what is to be kept is in `asked.kept` afterwards."""
        ...


def trace(module: nn.Module) -> Trace:
    """The steps of a module opened for repair; raises `InputError` for one whose graph is not known."""
    if hasattr(module, "nodes") and hasattr(module, "initializers"):
        from repair.locating.tracing_onnx import OnnxTrace

        return OnnxTrace(module)  # type: ignore[arg-type]
    graphs = [(name, part) for name, part in module.named_modules() if isinstance(part, fx.GraphModule)]
    if not graphs:
        raise InputError(f"a model whose layers are to be told apart must have a graph, got a {type(module).__name__}")
    name, graph = graphs[0]
    batches = getattr(module, "batches", (1, 2**31))
    return ProgramTrace(graph, f"{name}." if name else "", batches, getattr(module, "grid", None))


class ProgramTrace:
    """An exported program's graph; `prefix` stands before its parameters' names, `batches` are the sizes it accepts."""

    def __init__(self, graph: fx.GraphModule, prefix: str, batches: tuple[int, int], grid: Grid | None = None) -> None:
        self.graph, self.prefix, self.batches, self.grid = graph, prefix, batches, grid
        self._parameters = {name for name, _ in graph.named_parameters()}
        self.names = {f"{prefix}{name}": name for name in self._parameters}
        self.steps = [self._step(node) for node in graph.graph.nodes if node.op == "call_function"]

    def run(self, values: Tensor, asked: Asked) -> Tensor:
        whole = self.grid is not None and self.grid.dtype != torch.float32
        answers: Tensor = _Running(self, asked).run(quantised(values, self.grid) if whole else values)  # type: ignore[arg-type]
        return answers

    def _step(self, node: fx.Node) -> Step:
        op, seen = operator(node), [(read, self._parameter(read)) for read in node.all_input_nodes]
        reads = tuple(read.name for read, found in seen if found is None and read.op != "get_attr")
        read = [found for _, found in seen if found is not None]
        last = (op in RIGHT) ^ any(turned for _, turned in read)
        parameters = () if op in PASSES else tuple(name for name, _ in read)
        return Step(op, node.name, reads, node.name, parameters, last, op in ROUNDS and not read)

    def _parameter(self, node: fx.Node) -> tuple[str, bool] | None:
        """The parameter that a node stands for and whether it is turned on the way; None for other values."""
        turned = False
        while node.op == "call_function" and operator(node) in PASSES and isinstance(node.args[0], fx.Node):
            turned ^= operator(node) in TURNS
            node = node.args[0]
        found = node.op == "get_attr" and node.target in self._parameters
        return (f"{self.prefix}{node.target}", turned) if found else None


class _Running(fx.Interpreter):
    """One run of a program's graph."""

    def __init__(self, trace: ProgramTrace, asked: Asked) -> None:
        super().__init__(trace.graph)
        self.prefix, self.asked = trace.prefix, asked
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "get_attr" and f"{self.prefix}{n.target}" in self.asked.weights:
            return self.asked.weights[f"{self.prefix}{n.target}"]
        unrounded = n.name in self.asked.unrounded
        value = _clamped(operator(n), *self.fetch_args_kwargs_from_env(n)[0]) if unrounded else super().run_node(n)
        if n.name in self.asked.change:
            value = self.asked.change[n.name](value)
        if n.name in self.asked.keep:
            self.asked.kept[n.name] = value
        return value


def operator(node: fx.Node) -> str:
    """Such as conv2d for aten.conv2d.default, and relu for aten.relu_."""
    packet = getattr(node.target, "overloadpacket", None)
    name = str(packet) if packet is not None else getattr(node.target, "__name__", str(node.target))
    return name.rpartition(".")[2].removesuffix("_")


def _clamped(op: str, x: Tensor, scale: Any, zero: Any, *rest: int) -> Tensor:
    """What a rounding would put on its grid, clamped to the grid's range."""
    if op == "fake_quantize_per_channel":
        shape = [1] * x.ndim
        shape[rest[0]] = -1
        scale, zero = scale.view(shape), zero.view(shape)
    low, high = (torch.as_tensor((end - zero) * scale, dtype=x.dtype, device=x.device) for end in rest[-2:])
    return x.clamp(low, high)
