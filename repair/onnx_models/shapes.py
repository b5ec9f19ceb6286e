"""ONNX operators that move numbers and compute none."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from repair.onnx_models.node import Node
from repair.onnx_models.windows import torch_pads


def axes_of(node: Node, axes: Tensor | None) -> list[int]:
    """Axes from the second input, or from the attribute of older operator sets."""
    return list(node.get("axes", [])) if axes is None else axes.tolist()


def flatten(node: Node, x: Tensor) -> Tensor:
    """Two dimensions: those before the axis together, and the others together."""
    axis = node.get("axis", 1)
    axis += x.ndim if axis < 0 else 0
    return x.reshape(x.shape[:axis].numel(), x.shape[axis:].numel())


def reshape(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    """Another shape; 0 keeps a size unless `allowzero`. A batch size fixed at the export gives way to any other."""
    sizes = shape.tolist()
    if not node.get("allowzero"):
        sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    if sizes and sizes[0] == node.get("fixed_batch"):
        sizes[0] = len(x)
    return x.reshape(sizes)


def transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(node.get("perm") or list(reversed(range(x.ndim))))


def squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze(axes_of(node, axes) or [i for i, size in enumerate(x.shape) if size == 1])


def unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = axes_of(node, axes)
    for axis in sorted(axis % (x.ndim + len(chosen)) for axis in chosen):
        x = x.unsqueeze(axis)
    return x


def concat(node: Node, *parts: Tensor) -> Tensor:
    return torch.cat(parts, dim=node.get("axis"))


def cast(node: Node, x: Tensor) -> Tensor:
    kinds = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool}
    if node.get("to") not in kinds:
        raise node.refuse(f"element type {node.get('to')}")
    return x.to(kinds[node.get("to")])


def shape_of(node: Node, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[node.get("start", 0) : node.get("end")])


def gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Slices of one axis by index, which may have any shape and count from the end."""
    axis = node.get("axis", 0) % x.ndim
    chosen = x.index_select(axis, indices.to(x.device, torch.int64).flatten() % x.shape[axis])
    return chosen.reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


def cut(
    node: Node, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    """The operator Slice, forwards only."""
    cuts = [slice(None)] * x.ndim
    along = range(len(starts)) if axes is None else axes.tolist()
    strides = [1] * len(starts) if steps is None else steps.tolist()
    if min(strides) < 1:
        raise node.refuse("a negative step")
    for axis, start, end, stride in zip(along, starts.tolist(), ends.tolist(), strides, strict=True):
        cuts[axis] = slice(start, end, stride)
    return x[tuple(cuts)]


def pad(node: Node, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Any = None) -> Tensor:
    """More pixels around; with a constant along any axis, by reflection and the like along height and width."""
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    sizes = list(node.get("pads")) if pads is None else pads.tolist()
    along = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes.tolist()]
    every = {axis: (sizes[i], sizes[i + len(along)]) for i, axis in enumerate(along)}
    mode = modes[node.get("mode", "constant")]
    if mode != "constant":
        outer = [axis for axis, size in every.items() if axis < 2 and any(size)]
        if outer or x.ndim < 3:
            raise node.refuse(f"mode {node.get('mode')!r} outside height and width")
        return F.pad(x, torch_pads([every.get(axis, (0, 0)) for axis in range(2, x.ndim)]), mode)
    fill = node.get("value", 0.0) if value is None else float(value)
    return F.pad(x, torch_pads([every.get(axis, (0, 0)) for axis in range(x.ndim)]), value=fill)
