"""Mutations that move an image as a whole: rotation, shift, scale and shear.

Bilinear, with replicated borders (see `dflare.sampling`). Ranges are half of those of affNIST (T. Tieleman, 2013:
rotation by up to 20 degrees, scale 0.8 to 1.2, shear up to 0.2) and, for the shift, of Engstrom et al. (ICML 2019: a
tenth of the side); half, because mutations add up along a chain. Matrices are whole numbers, tabled or divided once.
"""

from functools import cache
from math import cos, radians, sin

import torch
from torch import Tensor

from dflare.mutations import Mutation
from dflare.random import Draws, Purpose
from dflare.sampling import ONE, UNIT, sample

_TURN = 100  # tenths of a degree
_SHIFT = 20  # the side is this many times the furthest shift
_SCALE = 100  # thousandths
_SHEAR = UNIT // 10


def rotation(images: Tensor, draws: Draws) -> Tensor:
    """Turn about the centre by up to 10 degrees either way, in tenths of a degree."""
    tenths = draws.purpose(Purpose.STRENGTH).integers(2 * _TURN + 1)
    return warp(images, _rotations(images.device)[tenths])


def shift(images: Tensor, draws: Draws) -> Tensor:
    """Move by up to a twentieth of the height and of the width either way, in 256ths of a pixel."""
    share = draws.purpose(Purpose.STRENGTH).integers(2 * ONE + 1, 2) - ONE
    sides = torch.tensor(images.shape[-2:], device=images.device)
    still = torch.tensor([[UNIT, 0], [0, UNIT]], device=images.device)
    return warp(images, still.expand(len(images), 2, 2), _quotient(share * sides, _SHIFT))


def scale(images: Tensor, draws: Draws) -> Tensor:
    """Make larger or smaller about the centre by a factor of 0.9 to 1.1, in thousandths."""
    thousandths = draws.purpose(Purpose.STRENGTH).integers(2 * _SCALE + 1) + 1000 - _SCALE
    unit = torch.eye(2, dtype=torch.int64, device=images.device)
    return warp(images, _quotient(1000 * UNIT, thousandths)[:, None, None] * unit)


def shear(images: Tensor, draws: Draws) -> Tensor:
    """Slant the columns or the rows, either half of the time, by up to 0.1 pixels a pixel either way."""
    slant = draws.purpose(Purpose.STRENGTH).integers(2 * _SHEAR + 1) - _SHEAR
    rows = draws.purpose(Purpose.PLACE).integers(2)
    whole = torch.full_like(slant, UNIT)
    return warp(images, torch.stack([whole, slant * rows, slant * (1 - rows), whole], dim=-1).view(-1, 2, 2))


AFFINE: dict[str, Mutation] = {mutation.__name__: mutation for mutation in (rotation, shift, scale, shear)}


def warp(images: Tensor, matrix: Tensor, move: Tensor | None = None) -> Tensor:
    """Images (n, c, h, w) whose pixel at offset (down, right) from the centre is the old one at `matrix` times it.

    `matrix` (n, 2, 2) int64 in 1/65536 maps new offsets to old ones; `move` (n, 2) int64 in 1/256 pixel shifts the
    result down and right. Coordinates are rounded to 1/256 pixel.
    """
    height, width = images.shape[-2:]
    rows = torch.arange(1 - height, height, 2, device=images.device)[:, None]  # in half pixels, so whole at any size
    columns = torch.arange(1 - width, width, 2, device=images.device)
    old = []
    for axis, side in enumerate((height, width)):
        start = (side - 1) * UNIT + ONE  # the centre, and half a step for rounding
        offset = start if move is None else start - move[:, axis, None, None] * (2 * UNIT // ONE)
        turned = matrix[:, axis, 0, None, None] * rows + (matrix[:, axis, 1, None, None] * columns + offset)
        old.append((turned >> 9).to(torch.int32))  # from 2^-17 to 2^-8 pixels
    return sample(images, old[0], old[1])


@cache
def _rotations(device: torch.device) -> Tensor:
    """Matrices of `warp` (201, 2, 2), anticlockwise turns by -10 to 10 degrees in tenths."""
    turns = [radians(tenths / 10) for tenths in range(-_TURN, _TURN + 1)]
    table = [[[cos(turn), sin(turn)], [-sin(turn), cos(turn)]] for turn in turns]
    return (torch.tensor(table, dtype=torch.float64) * UNIT).round().to(torch.int64).to(device)


def _quotient(numerator: Tensor | int, denominator: Tensor | int) -> Tensor:
    """The nearest whole number, halves up; for positive denominators."""
    return torch.div(2 * numerator + denominator, 2 * denominator, rounding_mode="floor")
