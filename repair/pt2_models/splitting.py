"""An exported program in two graphs, cut where its free weights come in."""

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, fx

from dflare.models.grids import Grid, quantised
from repair.pt2_models.artifact import PREFIX, Exported
from repair.pt2_models.quantized import RANGES
from repair.split import Split


def split_exported(module: Exported, moving: Collection[str], values: Tensor) -> Split | None:
    """The program before and after the first of the weights that move, by parameter name; None where it has no cut.

    It has none where a moving weight meets the image itself, or where what crosses the cut is no float32 tensor with
    a row for each image. `values`: (3, ...) as the module takes them.
    """
    program, (smallest, largest) = module.program, module.batches
    if not isinstance(program, fx.GraphModule):
        return None
    sizes = sorted({min(max(size, smallest), largest) for size in (2, 3)})
    runs = [_recorded(program, module.grid, values[torch.arange(size) % len(values)]) for size in sizes]
    cut = _Cut(program, {name.removeprefix(PREFIX) for name in moving})
    if not cut.possible or not all(_crosses([run[node] for run in runs], sizes) for node in cut.crossing):
        return None
    tensors = [node for node in cut.crossing if isinstance(runs[0][node], Tensor)]
    if not tensors:
        return None
    before = fx.GraphModule(program, _before(cut, tensors))
    after = fx.GraphModule(program, _after(cut, tensors, runs, sizes))
    first, second = Exported(before, module.batches, module.grid.dtype), Exported(after, module.batches)
    return Split(first, second, (_read(before), _read(after)))


class _Cut:
    """Which nodes need the image, which a moving weight, and which of the former the latter read."""

    def __init__(self, program: fx.GraphModule, moving: Collection[str]) -> None:
        self.nodes = list(program.graph.nodes)
        self.answer = self.nodes[-1].args[0]
        if isinstance(self.answer, tuple | list):
            self.answer = self.answer[0]
        shown = _reached([node for node in self.nodes if node.op == "placeholder"])
        self.moved = _reached([node for node in self.nodes if node.op == "get_attr" and str(node.target) in moving])
        held = shown - self.moved
        needed = self.above([self.answer], held)
        self.crossing = [node for node in self.nodes if node in held and node in needed]
        nested = any(isinstance(getattr(program, str(node.target), None), fx.GraphModule) for node in self.nodes)
        dynamic = any(str(node.target) in RANGES for node in held)  # scales that depend on the whole batch
        raw = any(node.op == "placeholder" for node in self.crossing)
        self.possible = bool(self.crossing) and self.answer in self.moved and not (nested or dynamic or raw)

    def above(self, ends: Iterable[fx.Node], stops: Collection[fx.Node]) -> set[fx.Node]:
        """All that these nodes are made of, back to the stops and with these."""
        found, waiting = set(), list(ends)
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                waiting += [] if node in stops else node.all_input_nodes
        return found


def _reached(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """These nodes and all that is computed from them."""
    found, waiting = set(), list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += list(node.users)
    return found


def _crosses(values: list[Any], sizes: list[int]) -> bool:
    """Whether values seen at several batch sizes can be kept row by row, or are a number that is known again."""
    if isinstance(values[0], int):
        return len(set(values)) == 1 or values == sizes
    return all(
        isinstance(value, Tensor) and value.dtype == torch.float32 and value.ndim > 1 and len(value) == size
        for value, size in zip(values, sizes, strict=True)
    )


def _before(cut: _Cut, tensors: list[fx.Node]) -> fx.Graph:
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    needed = cut.above(tensors, ())
    for node in cut.nodes:
        if node in needed or node.op == "placeholder":
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(graph.call_function(_pack, tuple(copies[node] for node in tensors)))
    return graph


def _after(cut: _Cut, tensors: list[fx.Node], runs: list[dict[fx.Node, Any]], sizes: list[int]) -> fx.Graph:
    graph = fx.Graph()
    packed, start = graph.placeholder("packed"), 0
    copies: dict[fx.Node, Any] = {}
    for node in cut.crossing:
        value = runs[0][node]
        if node in tensors:
            stop = start + value[0].numel()
            copies[node] = graph.call_function(_unpack, (packed, start, stop, tuple(value.shape[1:])))
            start = stop
        elif len({run[node] for run in runs}) == 1:
            copies[node] = value
        else:
            copies[node] = graph.call_function(torch.ops.aten.sym_size.int, (packed, 0))
    needed = cut.above([cut.answer], copies)
    for node in cut.nodes:
        if node in needed and node not in copies:
            copies[node] = graph.create_node(
                node.op, node.target, *fx.node.map_arg((node.args, node.kwargs), copies.__getitem__), node.name
            )
    graph.output(copies[cut.answer])
    return graph


def _pack(*parts: Tensor) -> Tensor:
    """(n, ...) each to (n, k)."""
    return torch.cat([part.flatten(1) for part in parts], 1)


def _unpack(packed: Tensor, start: int, stop: int, shape: tuple[int, ...]) -> Tensor:
    return packed[:, start:stop].reshape(len(packed), *shape)


def _read(graph: fx.GraphModule) -> frozenset[str]:
    return frozenset(f"{PREFIX}{name}" for name, _ in graph.named_parameters())


def _recorded(program: fx.GraphModule, grid: Grid, values: Tensor) -> dict[fx.Node, Any]:
    """What every node of a graph gives for some values."""
    found: dict[fx.Node, Any] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            found[n] = super().run_node(n)
            return found[n]

    with torch.no_grad():
        Recorder(program).run(values if grid.dtype == torch.float32 else quantised(values, grid))
    return found
