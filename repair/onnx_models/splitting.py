"""An ONNX graph in two, cut where its free weights come in."""

import copy
from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from repair.onnx_models.graph import OnnxModule
from repair.onnx_models.node import Node, last_uses
from repair.split import Split

PACKED = "\0packed"
"""Name of the activations that cross the cut, side by side; no name in a file has this character."""

OPSET = 13
"""The operator set that the nodes written here are of."""


def split_onnx(module: OnnxModule, moving: Collection[str], values: Tensor) -> Split | None:
    """The graph before and after the first of the weights that move, by parameter name; None where it has no cut.

    It has none where a moving weight meets the image itself, or where what crosses the cut is no float32 tensor with
    a row for each image. `values`: (3, ...) as the module takes them.
    """
    shown = _reached(module.nodes, {module.input.name})
    moved = _reached(module.nodes, {name for name, owner in module._attributes.items() if owner in moving})
    held = shown - moved
    later = _above(module.nodes, {module.output}, held)
    crossing = sorted({name for node in later for name in node.inputs} & held)
    if not crossing or module.input.name in crossing or module.output not in moved:
        return None
    seen = {name: [_part(module, [], name)(values[:size]) for size in (2, 3)] for name in crossing}
    if not all(_crosses(pair) for pair in seen.values()):
        return None
    sizes = {name: pair[0].shape[1:] for name, pair in seen.items()}
    earlier = _above(module.nodes, set(crossing), set())
    before = _part(module, [*earlier, *_packing(crossing)], PACKED)
    unpacking, small = _unpacking(sizes)
    after = _part(module, [*unpacking, *later], module.output)
    after.input = module.input._replace(name=PACKED)
    after._small = module._small | small
    return Split(before, after, (_read(before), _read(after)))


def _reached(nodes: Iterable[Node], names: set[str]) -> set[str]:
    """These names and those of all that is computed from them."""
    found = set(names)
    for node in nodes:
        if found & set(node.inputs):
            found.add(node.outputs[0])
    return found


def _above(nodes: list[Node], ends: set[str], stops: set[str]) -> list[Node]:
    """The nodes that make these values of the stops."""
    wanted, found = set(ends), []
    for node in reversed(nodes):
        if node.outputs[0] in wanted and node.outputs[0] not in stops:
            found.append(node)
            wanted |= set(node.inputs)
    return found[::-1]


def _crosses(pair: list[Tensor]) -> bool:
    """Whether what two and what three images give can be kept row by row."""
    rows = [len(value) if value.ndim > 1 else 0 for value in pair]
    return rows == [2, 3] and all(value.dtype == torch.float32 for value in pair)


def _part(module: OnnxModule, nodes: list[Node], output: str) -> OnnxModule:
    """The module with other nodes, if any, and another output; its parameters are the module's own."""
    part = copy.copy(module)
    part.nodes, part.output = nodes or _above(module.nodes, {output}, set()), output
    part._drop = last_uses(part.nodes, output)
    return part


def _packing(names: list[str]) -> list[Node]:
    rows = [f"{PACKED} {name}" for name in names]
    flat = [Node("Flatten", "", (name,), (row,), OPSET, {"axis": 1}) for name, row in zip(names, rows, strict=True)]
    return [*flat, Node("Concat", "", tuple(rows), (PACKED,), OPSET, {"axis": 1})]


def _unpacking(sizes: dict[str, torch.Size]) -> tuple[list[Node], dict[str, Tensor]]:
    """The nodes that bring activations back into their shapes, and the numbers that these nodes read."""
    nodes: list[Node] = []
    small: dict[str, Tensor] = {}
    start = 0
    for name, size in sizes.items():
        row, numbers = f"{PACKED} {name}", [f"{PACKED} {name} {what}" for what in ("from", "to", "axis", "shape")]
        stop = start + size.numel()
        small |= dict(zip(numbers, map(torch.tensor, ([start], [stop], [1], [0, *size])), strict=True))
        nodes.append(Node("Slice", "", (PACKED, *numbers[:3]), (row,), OPSET, {}))
        nodes.append(Node("Reshape", "", (row, numbers[3]), (name,), OPSET, {}))
        start = stop
    return nodes, small


def _read(part: OnnxModule) -> frozenset[str]:
    used = {part._attributes.get(name) for node in part.nodes for name in node.inputs}
    return frozenset(name for name, _ in part.named_parameters() if name in used)
