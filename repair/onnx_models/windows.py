"""ONNX operators that slide a window: convolution and pooling with any padding."""

import torch
import torch.nn.functional as F
from torch import Tensor

from repair.onnx_models.node import Node

Pads = list[tuple[int, int]]
"""Before and after, for each dimension after the channels."""

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution with groups, strides, dilations and asymmetric pads."""
    n, groups = x.ndim - 2, node.get("group", 1)
    strides, dilations = node.get("strides", [1] * n), node.get("dilations", [1] * n)
    pads = _pads(node, x, list(weight.shape[2:]), strides, dilations)
    if all(before == after for before, after in pads):
        return CONV[n](x, weight, bias, strides, [before for before, _ in pads], dilations, groups)
    return CONV[n](F.pad(x, torch_pads(pads)), weight, bias, strides, 0, dilations, groups)


def max_pool(node: Node, x: Tensor) -> Tensor:
    """Largest value in each window; padding never wins."""
    n, kernel = x.ndim - 2, node.get("kernel_shape")
    strides, dilations = node.get("strides", [1] * n), node.get("dilations", [1] * n)
    pads = _pads(node, x, kernel, strides, dilations)
    if all(before == after <= size // 2 for (before, after), size in zip(pads, kernel, strict=True)):
        return MAX_POOL[n](x, kernel, strides, [before for before, _ in pads], dilations, bool(node.get("ceil_mode")))
    if any(map(any, pads)):
        x = F.pad(x, torch_pads(pads), value=-torch.inf)
    return MAX_POOL[n](x, kernel, strides, 0, dilations, _ceil(node, pads))


def average_pool(node: Node, x: Tensor) -> Tensor:
    """Mean of each window, over all its places (`count_include_pad`) or over those inside the image."""
    n, kernel = x.ndim - 2, node.get("kernel_shape")
    strides, dilations = node.get("strides", [1] * n), node.get("dilations", [1] * n)
    if any(dilation != 1 for dilation in dilations):
        raise node.refuse("dilations")
    pads = _pads(node, x, kernel, strides, dilations)
    ceil = _ceil(node, pads)
    if not any(map(any, pads)):
        return AVERAGE_POOL[n](x, kernel, strides, ceil_mode=ceil)
    mean = AVERAGE_POOL[n](F.pad(x, torch_pads(pads)), kernel, strides)
    if node.get("count_include_pad"):
        return mean
    inside = F.pad(torch.ones_like(x[:1, :1]), torch_pads(pads))
    return mean / AVERAGE_POOL[n](inside, kernel, strides)


def torch_pads(pads: Pads) -> list[int]:
    """Pads in the order of `torch.nn.functional.pad`: last dimension first."""
    return [size for pair in reversed(pads) for size in pair]


def _pads(node: Node, x: Tensor, kernel: list[int], strides: list[int], dilations: list[int]) -> Pads:
    n, mode = x.ndim - 2, node.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        sizes = node.get("pads", [0] * 2 * n) if mode == "NOTSET" else [0] * 2 * n
        return list(zip(sizes[:n], sizes[n:], strict=True))
    pads = []
    for size, k, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        reach = (-(-size // stride) - 1) * stride + (k - 1) * dilation + 1  # pixels under all windows together
        total = max(0, reach - size)
        small, large = total // 2, total - total // 2
        pads.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return pads


def _ceil(node: Node, pads: Pads) -> bool:
    """Whether the last window may reach over the edge."""
    if node.get("ceil_mode") and any(map(any, pads)):
        raise node.refuse("ceil_mode together with such padding")
    return bool(node.get("ceil_mode"))
