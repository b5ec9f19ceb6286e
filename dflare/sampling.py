"""Exact resampling of images, and smooth random fields: the arithmetic beneath the geometric and weather mutations.

Coordinates are whole multiples of 1/256 pixel and weights whole numbers, so that every sum is exact in the type it is
computed in: an image's result is the same in any batch, in any order of summation and on any device.
"""

from functools import cache

import torch
from torch import Tensor

ONE = 256
"""Steps in a pixel, of coordinates and so of interpolation weights; also in a strength."""

UNIT = 2**16
"""What stands for 1 in matrices, directions, shares and the weights of splines."""

CELLS = 4
"""Cells per side of the coarsest smooth field: features of a quarter of the image."""


def sample(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Bilinear values of whole-valued images (n, c, h, w) in [0, 255] at coordinates (n, h, w) in 1/256 pixel.

    Coordinates count from the centre of the top left pixel; outside of the image its border is replicated, which on
    digits over black is black and on photographs leaves no black wedges. The four neighbours travel as four bytes
    of one number, so that one gather fetches them.
    """
    height, width = images.shape[-2:]
    down, right = down.clamp(0, (height - 1) * ONE), right.clamp(0, (width - 1) * ONE)
    places = ((down >> 8) * width + (right >> 8)).flatten(1).to(torch.int64)
    corners = _packed(images).flatten(2).gather(2, places[:, None].expand(-1, images.shape[1], -1)).view(images.shape)
    below, beside = (down & 255)[:, None].to(torch.int32), (right & 255)[:, None].to(torch.int32)
    above = (corners & 255) * (ONE - beside) + ((corners >> 8) & 255) * beside
    under = ((corners >> 16) & 255) * (ONE - beside) + ((corners >> 24) & 255) * beside
    return (above * (ONE - below) + under * below).float() / ONE**2  # below 2^24, so exact


def field(controls: Tensor, height: int, width: int) -> Tensor:
    """Cubic B-spline through whole-numbered controls (n, k + 3, l + 3) of k x l cells: (n, height, width) float64.

    The values are exact and 65536^2 times the spline's, which stay between the smallest and the largest control.
    float64, because lower precision than float32 is a global setting of products of float32 matrices.
    """
    tall = _spline(height, controls.shape[-2] - 3).to(controls.device)
    wide = _spline(width, controls.shape[-1] - 3).to(controls.device)
    return tall @ controls.double() @ wide.T


def _packed(images: Tensor) -> Tensor:
    """Each pixel with its right, lower and lower right neighbour in one int32, least significant byte first."""
    whole = images.to(torch.int32)
    pairs = whole | (torch.cat([whole[..., 1:], whole[..., -1:]], dim=-1) << 8)
    return pairs | (torch.cat([pairs[..., 1:, :], pairs[..., -1:, :]], dim=-2) << 16)


@cache
def _spline(length: int, cells: int) -> Tensor:
    """Weights (length, cells + 3) float64 of the controls at each pixel's centre, in 1/65536, in rows of sum 1.

    Uniform cubic B-spline (Rueckert et al., IEEE Transactions on Medical Imaging, 1999, eq. 4), in whole numbers.
    """
    weights = torch.zeros(length, cells + 3, dtype=torch.float64)
    size = 2 * length
    for pixel in range(length):
        cell, t = divmod((2 * pixel + 1) * cells, size)  # t / size is the place within the cell
        cubes = ((size - t) ** 3, 3 * t**3 - 6 * t**2 * size + 4 * size**3, t**3)
        first, second, last = ((2 * UNIT * cube + 6 * size**3) // (12 * size**3) for cube in cubes)
        weights[pixel, cell : cell + 4] = torch.tensor([first, second, UNIT - first - second - last, last]).double()
    return weights
