"""Integers that stand for numbers, and what the shape of a model's input says: what all formats of files share."""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from dflare.errors import InputError
from dflare.models.interface import Takes

MOST_NUMBERS = 2**28
"""Numbers that the sizes fixed by a file may ask for in one input, 1 GiB of float32: a photo has some 10^7."""

_RANGES = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))
"""What black and white are where a grid spans nothing else."""


class Grid(NamedTuple):
    """The numbers (q - zero_point) * scale that a type can hold; scale 0: the type's own numbers."""

    dtype: torch.dtype
    scale: float = 0.0
    zero_point: int = 0

    @property
    def range(self) -> tuple[float, float] | None:
        """Black and white of images on this grid, where it spans one of the usual ranges to within one grey level."""
        if self.dtype.is_floating_point:
            return None
        limits = torch.iinfo(self.dtype)
        ends = [(limit - self.zero_point) * (self.scale or 1.0) for limit in (limits.min, limits.max)]
        for usual in _RANGES:
            level = (usual[1] - usual[0]) / 255 * 1.001
            if all(abs(end - wanted) <= level for end, wanted in zip(ends, usual, strict=True)):
                return usual
        return None


def quantised(numbers: Tensor, grid: Grid, halves_to_even: bool = False) -> Tensor:
    """Numbers on the grid, q = round(x / scale) + zero point, same shape; what it cannot hold gets its nearest end.

    Halves go away from zero, as LiteRT's QUANTIZE rounds, or to the even neighbour, as ONNX's QuantizeLinear does.
    """
    if grid.dtype.is_floating_point:
        return numbers.to(grid.dtype)
    steps = numbers.float() / (grid.scale or 1)
    if halves_to_even:
        whole = steps.round()
    else:
        whole = steps.trunc()
        whole += steps.sign() * ((steps - whole).abs() >= 0.5)
    limits = torch.iinfo(grid.dtype)
    return (whole + grid.zero_point).clamp(limits.min, limits.max).to(grid.dtype)


def dequantised(answers: Tensor, grid: Grid) -> Tensor:
    """The numbers (q - zero point) * scale that integers stand for, float32, same shape; floats as they are."""
    if grid.dtype.is_floating_point or grid.scale == 0:
        return answers.float()
    return (answers.float() - grid.zero_point) * grid.scale


def image_takes(shape: Sequence[int | str], channels_last: bool, grid: Grid, name: str) -> Takes:
    """What an input's shape (n, …) says of its images, with a name where a size is free.

    One or three of something are the channels; `channels_last` decides where both ends or neither could be them.
    Raises `InputError`, with the model's `name` in it, unless the shape is one of images that fit into memory.
    """
    if len(shape) != 4:
        came = f"({', '.join(str(size) for size in shape)})"
        raise InputError(f"{name} must take images (n, channels, height, width) or (n, height, width, channels), "
                         f"it takes {came}")  # fmt: skip
    fixed = [size for size in shape if isinstance(size, int)]
    if min(fixed, default=1) < 1 or prod(fixed) > MOST_NUMBERS:
        sizes = " x ".join(str(size) for size in shape)
        raise InputError(f"{name} must take at least 1 and at most {MOST_NUMBERS:,} numbers at once, it takes {sizes}")
    ends = [shape[axis] in (1, 3) for axis in (1, 3)]
    if ends[0] != ends[1]:
        channels_last = ends[1]
    sizes_of_image = (shape[3], *shape[1:3]) if channels_last else tuple(shape[1:])
    channels, height, width = (size if isinstance(size, int) else None for size in sizes_of_image)
    batches = (shape[0], shape[0]) if isinstance(shape[0], int) else (1, 2**31)
    return Takes(channels, height, width, "nhwc" if channels_last else "nchw", grid.range, None, batches)
