"""Where the nearest boundary lies: slopes of the models' scores by finite differences, in long waves first.

Asking for the slope along every pixel would cost thousands of questions; most of a boundary's direction is in the
long waves of the cosine transform (QEBA, Li et al. 2020, for attacks that see labels only). Slopes are refreshed
one shell of wave lengths at a time, each at the point of the boundary known by then; the others are kept from before.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import pi, sqrt

import torch
from torch import Tensor

from dflare.closest import Closest

_SIDES = (6, 8, 11, 14, 18)  # waves per side up to which the shells reach: 36, 28, 57, 75 and 128 waves a channel
_STEP = 0.3  # L2 length of a probe on [0, 1]
_LEVELS = 1.2  # root mean square of a probe at the least, in grey levels; less is lost in rounding
_WEAKEST = 0.1  # share of a probe's length that must be left after cutting at black and white


@dataclass(frozen=True)
class Waves:
    """Orthonormal cosine waves of images (c, h, w): matrices with one wave a row, and the shells in order."""

    channels: Tensor  # (c, c) float64
    rows: Tensor  # (waves, h)
    columns: Tensor  # (waves, w)
    shells: tuple[Tensor, ...]  # (k, 3) int64 each: channel, row and column wave

    @classmethod
    def of(cls, images: Tensor) -> "Waves":
        """The waves that fit images (n, c, h, w), on their device."""
        channels, height, width = images.shape[1:]
        matrices = [
            _cosines(channels, channels),
            _cosines(min(height, _SIDES[-1]), height),
            _cosines(min(width, _SIDES[-1]), width),
        ]
        everything = torch.cartesian_prod(*(torch.arange(len(matrix)) for matrix in matrices)).view(-1, 3)
        side = everything[:, 1:].amax(1)
        shells = [everything[(side >= low) & (side < high)] for low, high in pairwise((0, *_SIDES))]
        over_channels, down, across = (matrix.to(images.device) for matrix in matrices)
        return cls(over_channels, down, across, tuple(shell.to(images.device) for shell in shells if len(shell)))

    def images(self, coefficients: Tensor) -> Tensor:
        """Coefficients (..., c, waves, waves) -> images (..., c, h, w), float64."""
        return torch.einsum("...kab,kc,ah,bw->...chw", coefficients, self.channels, self.rows, self.columns)

    def some(self, waves: Tensor) -> Tensor:
        """The waves (k, 3) themselves, (k, c, h, w) of length 1."""
        channel, row, column = waves.unbind(1)
        planes = self.rows[row][:, :, None] * self.columns[column][:, None]
        return self.channels[channel][:, :, None, None] * planes[:, None]


def measure(closest: Closest, waves: Waves, shell: Tensor, rows: Tensor, points: Tensor, slopes: Tensor) -> Tensor:
    """Refresh the slopes (n, 2, rivals, c, waves, waves) of triggers `rows` (m,) along a shell, at uint8 points.

    Asks 1 + len(shell) images a trigger, all triggers together in full batches; returns the gaps (m, 2, rivals) at
    the points. `slopes` is changed in place.
    """
    here = closest.ask(rows, points).gaps
    whole = points.double()
    length = max(_STEP * 255, _LEVELS * sqrt(points[0].numel()))
    for part in shell.split(max(1, closest.batch_size // len(rows))):
        some = waves.some(part)
        probes = (whole[:, None] + length * some).clamp(0, 255).round()
        size = ((probes - whole[:, None]) * some).flatten(2).sum(2) / 255  # (m, k)
        gaps = closest.ask(rows.repeat_interleave(len(part)), probes.to(torch.uint8).flatten(0, 1)).gaps
        rise = gaps.view(*size.shape, *here.shape[1:]) - here[:, None]
        usable = size * 255 > _WEAKEST * length
        slope = torch.where(usable[..., None, None], rise / size.where(usable, 1)[..., None, None], 0)
        channel, row, column = part.unbind(1)
        slopes[rows[:, None], :, :, channel, row, column] = slope
    return here


def nearest_boundaries(
    origin: Tensor, points: Tensor, gaps: Tensor, slopes: Tensor, waves: Waves
) -> tuple[Tensor, Tensor]:
    """Steepest ways from m seeds to each model's nearest boundary: distances (m, 2) and slopes (m, 2, c, h, w).

    The scores are taken as linear around the points; the nearest boundary is that of the rival with the smallest gap
    over slope (DeepFool, Moosavi-Dezfooli et al. 2016), where values already black or white cannot go further.
    `origin` and `points` are (m, c, h, w) in [0, 1], gaps (m, 2, rivals). Distances are 0 behind the boundary.
    """
    away = (origin - points)[:, None]
    nearest = torch.full(gaps.shape[:2], torch.inf, dtype=gaps.dtype, device=gaps.device)
    ways = torch.zeros(*gaps.shape[:2], *origin.shape[1:], dtype=gaps.dtype, device=gaps.device)
    for rival in range(gaps.shape[2]):
        slope = waves.images(slopes[:, :, rival])
        at_seed = gaps[:, :, rival] + (slope * away).flatten(2).sum(2)
        stuck = ((origin <= 0)[:, None] & (slope > 0)) | ((origin >= 1)[:, None] & (slope < 0))
        slope = slope.where(~stuck, 0)
        norm = slope.flatten(2).square().sum(2).sqrt()
        distance = torch.where(norm > 0, at_seed.clamp(min=0) / norm, torch.inf)
        closer = distance < nearest
        nearest = torch.where(closer, distance, nearest)
        ways = torch.where(closer[..., None, None, None], slope, ways)
    return nearest, ways


def _cosines(count: int, length: int) -> Tensor:
    """The `count` longest orthonormal cosine waves of that length, (count, length) float64."""
    places, waves = torch.arange(length, dtype=torch.float64) + 0.5, torch.arange(count, dtype=torch.float64)
    scale = torch.where(waves == 0, 1.0, 2.0) / length
    return torch.cos(pi * waves[:, None] * places / length) * scale.sqrt()[:, None]
