"""The ways that boundary searches are on, and what becomes of them with every answer."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dflare import bracket, columns
from dflare.bracket import Bracket
from dflare.crossing import WHOLE, between
from dflare.random import Draws, Purpose
from dflare.walk import Hold

PROBES = 12
"""Questions on a new way before it is given up."""

TIED = 2
"""Ties seen on a new way before it is given up: the compressed model does not resolve the strip."""

NOISES = 3
"""How often a way is tried again under new noise."""

AGAIN = 4
"""Questions on a way under noise."""

SIGMA = 4.0
"""Of the noise, in grey levels: moves the margins by little and draws the difference of the models anew."""

WIDE = WHOLE // 64
"""Slopes are taken from brackets at least so wide; across a narrower one the grey levels are felt."""

FLATTEST = 1e-9
"""Smallest slope, margin a position."""


@dataclass(frozen=True)
class Way:
    """One way a chain, from its current image to an image that both models call something else."""

    open: Tensor  # (n,) bool, whether it is being asked
    far: Tensor  # (n, c, h, w) uint8, its end
    choice: Tensor  # (n,) int64, what made the end
    began: Tensor  # (n,) int64, the step in which the end was made
    tied: Tensor  # (n,) int64, ties seen since the noise was drawn
    noise: Tensor  # (n,) int64, the step whose draws the noise comes from; 0 for none
    noises: Tensor  # (n,) int64, how often noise was drawn
    slope: Tensor  # (n, 2) float64 > 0, what the margins lose a position
    position: Tensor  # (n,) int64, what to ask next; means nothing where no way is open
    bracket: Bracket

    @property
    def noisy(self) -> Tensor:
        """Whether the way is under noise, (n,) bool."""
        return self.open & (self.noise > 0)


def nowhere(images: Tensor) -> Way:
    """n chains at uint8 images (n, c, h, w) that are on no way."""
    zeros = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    slope = torch.ones(len(images), 2, dtype=torch.float64, device=images.device)
    return Way(zeros > 0, images, zeros, zeros, zeros, zeros, zeros, slope, zeros, bracket.at(zeros, 2))


def opened(way: Way, rows: Tensor, far: Tensor, choice: Tensor, step: Tensor, margins: tuple[Tensor, Tensor]) -> Way:
    """The rows (n,) bool on new ways to `far` images; `margins` (n, 2) are known at both ends, home first."""
    if not bool(rows.any()):
        return way
    new, zeros = bracket.opened(*margins), torch.zeros_like(step)
    fresh = Way(rows, far, choice, step, zeros, zeros, zeros, _slope(new), bracket.target(new), new)
    return columns.where(rows, fresh, way)


def told(way: Way, margins: Tensor, step: Tensor) -> tuple[Way, Tensor]:
    """The ways after margins (n, 2) were seen at their targets, and which are spent for good, (n,) bool.

    A way that is spent for the first times is tried again, under noise that `step` + 1 draws: first at the place where
    the strip should be, then where Newton's step leads, with the slopes known from before.
    """
    unknown = way.noisy & (way.bracket.probes == 0)
    new = bracket.told(way.bracket, way.position, margins)
    new = columns.where(unknown, bracket.around(way.position, margins, way.slope), new)
    tied = way.tied + ((margins == 0).any(-1) & ~unknown)
    wide = ~way.noisy & (new.high - new.low >= WIDE)
    spent = (new.probes >= PROBES) | (new.high - new.low < 2) | (tied >= TIED)
    spent = torch.where(way.noisy, (new.probes >= AGAIN) | (tied > 0), spent) & way.open
    again = spent & (way.noises < NOISES)
    position = bracket.target(new)
    after = replace(
        way,
        open=way.open & (again | ~spent),
        tied=torch.where(again, 0, tied),
        noise=torch.where(again, step + 1, way.noise),
        noises=way.noises + again,
        slope=torch.where(wide[:, None], _slope(new), way.slope),
        position=torch.where(again, position.clamp(1, WHOLE - 1), position),
        bracket=columns.where(again, bracket.at(position, 2), new),
    )
    return columns.where(way.open, after, way), spent & ~again


def images_on(way: Way, seed: int, ids: Tensor, origin: Tensor, images: Tensor, hold: Hold) -> Tensor:
    """What to ask next on open ways that start at `images`, uint8 (n, c, h, w)."""
    made = between(images, way.far, way.position)
    rows = way.noisy.nonzero().squeeze(-1)
    if len(rows):
        held = hold(origin[rows], made[rows])
        made[rows] = under_noise(held, seed, ids[rows], way.noise[rows])
    return made


def under_noise(images: Tensor, seed: int, ids: Tensor, step: Tensor) -> Tensor:
    """Images with the faint noise of a step over them, uint8 (n, c, h, w)."""
    noise = Draws.of(seed, ids, step).purpose(Purpose.NOISE).normal(*images.shape[1:])
    return (images + SIGMA * noise).round_().clamp_(0, 255).to(torch.uint8)


def _slope(of: Bracket) -> Tensor:
    """What the margins lose a position between the ends, (n, 2), not less than next to nothing."""
    return ((of.at_low - of.at_high) / (of.high - of.low).clamp(min=1)[:, None]).clamp(min=FLATTEST)
