"""The way from one image to another, level by level: every pixel changes in steps of one grey level, dithered.

A straight line between two images, rounded to whole grey levels, would change many pixels at once. Here each pixel's
steps are shifted by its own fraction, so that they come one by one in a fixed random order and the way resolves
differences finer than one grey level of the whole image.
"""

from functools import cache

import torch
from torch import Tensor

from dflare.random import Draws

BITS = 22
WHOLE = 2**BITS
"""Positions are whole numbers from 0, the first image, to this, the second: 255 * WHOLE fits into 32 bits."""

_SEED = 0xD17BE2


def between(first: Tensor, second: Tensor, position: Tensor) -> Tensor:
    """The images at `position` (n,) of the way from `first` to `second`, uint8 (n, c, h, w) all three.

    Whole-number arithmetic: the same everywhere. Position 0 is `first`, `WHOLE` is `second`.
    """
    apart = second.to(torch.int32) - first.to(torch.int32)
    steps = (apart.abs() * position.to(torch.int32).view(-1, 1, 1, 1) + _dither(first.shape[1:], first.device)) >> BITS
    return (first + steps * apart.sign()).to(torch.uint8)


@cache
def _dither(shape: torch.Size, device: torch.device) -> Tensor:
    """Each pixel's fraction of a step, whole numbers in [0, WHOLE), int32 (c, h, w)."""
    nobody, start = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    return Draws.of(_SEED, nobody, start).integers(WHOLE, *shape)[0].int().to(device)
