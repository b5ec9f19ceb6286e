"""Which stored tensors of an int8 program are weights on a grid of integers, and on which."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from repair.compression import Quantized

QUANTIZERS = {
    "quantized_decomposed.quantize_per_tensor.default",
    "quantized_decomposed.quantize_per_tensor.tensor",
    "quantized_decomposed.quantize_per_channel.default",
}
DEQUANTIZERS = {name.replace(".quantize", ".dequantize") for name in QUANTIZERS}

INTEGERS = {torch.uint8, torch.int8, torch.uint16, torch.int16, torch.int32}
"""Types whose bounds float64 holds, so that integers can be clamped to them."""


class Step(NamedTuple):
    """The arguments of a quantiser or a dequantiser: numbers, or nodes that make them."""

    input: fx.Node
    scale: Any
    zero_point: Any  # None: 0
    axis: int | None  # None: one grid for the tensor
    low: int
    high: int
    dtype: torch.dtype
    floats: torch.dtype = torch.float32  # what a dequantiser makes

    @property
    def grid(self) -> tuple[Any, ...]:
        """What a quantiser and its dequantiser have in common, where the activation stays float32."""
        return self[1:]

    @property
    def sound(self) -> bool:
        """Whether the integers lie in the range of their type, so that none can wrap."""
        if self.dtype not in INTEGERS:
            return False
        limits = torch.iinfo(self.dtype)
        return limits.min <= self.low < self.high <= limits.max


def step_of(node: fx.Node) -> Step:
    """The arguments of a quantiser's or dequantiser's node, by the names in its schema."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    said = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    scale, zero = said.get("scale", said.get("scales")), said.get("zero_point", said.get("zero_points"))
    floats = said.get("out_dtype") or torch.float32
    low, high = said["quant_min"], said["quant_max"]
    return Step(said["input"], scale, zero, said.get("axis"), low, high, said["dtype"], floats)


def find_weights(graph: fx.GraphModule) -> dict[str, tuple[Tensor, Quantized]]:
    """Name -> the float32 weight that stored integers stand for, and its grid.

    Integers are left out, and stay as they are, where something else than dequantisers of one grid reads them, where
    the grid is computed, and where float32 cannot tell them apart (an int32 bias of more than some 2^22 steps).
    """
    readers: dict[str, list[tuple[fx.Node, fx.Node]]] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            readers.setdefault(str(node.target), []).extend((user, node) for user in node.users)
    found = {}
    for name, users in readers.items():
        integers = stored(graph, name)
        if not isinstance(integers, Tensor) or integers.dtype not in INTEGERS:
            continue
        if not all(str(user.target) in DEQUANTIZERS and user.args[0] is node for user, node in users):
            continue
        grids = {tuple(map(str, step_of(user).grid)): user for user, _ in users}
        weight = _weight(graph, integers, next(iter(grids.values()))) if len(grids) == 1 else None
        if weight is not None:
            found[name] = weight
    return found


def _weight(graph: fx.GraphModule, integers: Tensor, node: fx.Node) -> tuple[Tensor, Quantized] | None:
    """The weight and its grid as the node reads the integers; None where a projection cannot stand for the grid."""
    step = step_of(node)
    scale, zero = _constant(graph, step.scale), _constant(graph, step.zero_point or 0)
    if isinstance(scale, fx.Node) or isinstance(zero, fx.Node) or not step.sound or step.floats != torch.float32:
        return None
    shape = [1] * integers.ndim if step.axis is not None else []
    if step.axis is not None:
        shape[step.axis] = -1
    with torch.no_grad():
        numbers = (torch.as_tensor(each, dtype=torch.float32).clone() for each in (scale, zero))
        each_scale, each_zero = (each.reshape(shape) if each.numel() > 1 else each for each in numbers)
        grid = Quantized(each_scale, each_zero, step.low, step.high)
        args = [integers, *(_constant(graph, argument) for argument in node.args[1:])]
        weight = node.target(*args)  # type: ignore[operator]
        usable = bool((grid.scale > 0).all() and grid.scale.isfinite().all())
        exact = torch.equal(grid.integers(weight).double(), integers.double()) and torch.equal(grid(weight), weight)
    return (weight, grid) if usable and exact else None


def stored(graph: fx.GraphModule, name: str) -> Any:
    """What lies under a dotted name in a graph's module."""
    value: Any = graph
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _constant(graph: fx.GraphModule, value: Any) -> Any:
    """A stored tensor in place of the node that reads it; whatever else, as it is."""
    if isinstance(value, fx.Node) and value.op == "get_attr":
        return stored(graph, str(value.target))
    return value
