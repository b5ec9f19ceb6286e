"""Mutations that look like weather and movement: motion blur and fog.

Ranges end near severity 2 of ImageNet-C and CIFAR-10-C (Hendrycks and Dietterich, ICLR 2019).
"""

from collections.abc import Sequence
from functools import cache
from math import ceil, cos, radians, sin

import torch
import torch.nn.functional as F
from torch import Tensor

from dflare.mutations import Mutation
from dflare.random import Draws, Purpose
from dflare.sampling import CELLS, ONE, UNIT, field

_SHORT, _LONG = 3, 21  # pixels; the shorter side is that many times the longest blur
_OCTAVES = ((CELLS // 2, 5), (CELLS, 2), (2 * CELLS, 1))  # cells per side, and weight in eighths
_EIGHTHS = 8
_THICKEST = 85  # 256ths, a third


def motion_blur(images: Tensor, draws: Draws) -> Tensor:
    """Mean along a line through each pixel, at any whole angle, 1 to 3 pixels long; borders replicated.

    On images of more than 63 pixels a side the longest line is a 21st of the shorter side. A line of that length is as
    wide as severity 2's one-sided Gaussian: sigma 1.5 on 32 pixels is a line of 3.1, sigma 5 on 224 one of 10.4.
    """
    longest = max(_SHORT * ONE, min(images.shape[-2:]) * ONE // _LONG)
    length = ONE + draws.purpose(Purpose.STRENGTH).integers(longest - ONE + 1)
    return smear(images, draws.purpose(Purpose.PLACE).integers(180), length, ceil((longest / ONE - 1) / 2))


def fog(images: Tensor, draws: Draws) -> Tensor:
    """Blend towards white by a smooth random share of at most 1/3, the same in all channels.

    The share is a thickness, uniform in [0, 1/3], times a field in [0, 1]: B-splines of 2, 4 and 8 cells per side
    weighted 5 : 2 : 1, where CIFAR-10-C has a plasma fractal; its severity 2 whitens by 0.5 / 1.5 = 1/3.
    """
    thickness = draws.purpose(Purpose.STRENGTH).integers(_THICKEST + 1)
    sizes = [(cells + 3) ** 2 for cells, _ in _OCTAVES]
    controls = draws.purpose(Purpose.VALUE).integers(ONE + 1, sum(sizes)).split(sizes, dim=1)
    return whiten(images, controls, thickness)


WEATHER: dict[str, Mutation] = {mutation.__name__: mutation for mutation in (motion_blur, fog)}


def smear(images: Tensor, degrees: Tensor, length: Tensor, reach: int) -> Tensor:
    """Images averaged along lines at `degrees` (n,) from the horizontal, of `length` (n,) int64 in 1/256 pixel.

    Lengths are in [1, 2 * reach + 1] pixels; the line is drawn in whole pixels, those at its ends counted by their
    share.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, [reach] * 4, mode="replicate")
    across = padded.shape[-1]
    rows = torch.arange(reach, reach + height, device=images.device)[:, None] * across
    centres = (rows + torch.arange(reach, reach + width, device=images.device)).flatten()
    line = _lines(reach, images.device)[degrees]  # (n, 2 * reach + 1, 2)
    total, weights = torch.zeros_like(images), torch.zeros_like(length)
    for k in range(2 * reach + 1):
        weight = (length // 2 - (abs(k - reach) * ONE - ONE // 2)).clamp(0, ONE)
        places = centres + (line[:, k, 0] * across + line[:, k, 1])[:, None]
        moved = padded.flatten(2).gather(2, places[:, None].expand(-1, images.shape[1], -1)).view(images.shape)
        total += moved * weight.view(-1, 1, 1, 1).float()
        weights += weight
    return total / weights.view(-1, 1, 1, 1).float()


def whiten(images: Tensor, controls: Sequence[Tensor], thickness: Tensor) -> Tensor:
    """Images blended towards white by `thickness` (n,) times a field, both in 1/256 and in [0, 256].

    `controls` are those of the octaves, from the coarsest to the finest: (n, 25), (n, 49) and (n, 121) int64.
    """
    density = torch.zeros(len(images), *images.shape[-2:], dtype=torch.float64, device=images.device)
    for part, (cells, weight) in zip(controls, _OCTAVES, strict=True):
        density += field(part.view(-1, cells + 3, cells + 3), *images.shape[-2:]) * weight
    # octaves in eighths, splines in UNIT^2, controls and thickness in ONE each; a share in UNIT
    share = density * thickness.double()[:, None, None] / (_EIGHTHS * UNIT * ONE**2)
    return images + (255 - images) * share.round()[:, None].float() / UNIT


@cache
def _lines(reach: int, device: torch.device) -> Tensor:
    """Offsets (180, 2 * reach + 1, 2) int64, down and right, of a line's pixels at each angle in degrees."""
    turns = [radians(degrees) for degrees in range(180)]
    directions = torch.tensor([[-sin(turn), cos(turn)] for turn in turns], dtype=torch.float64)
    fixed = (directions * UNIT).round().to(torch.int64)
    steps = torch.arange(-reach, reach + 1)[:, None]
    return ((fixed[:, None] * steps + UNIT // 2) >> 16).to(device)
