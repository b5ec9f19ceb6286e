"""The strip between two models' boundaries: found along a straight way from the seed, then searched sideways."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dflare.closest import Closest
from dflare.random import Draws, Purpose
from dflare.slopes import Waves

_STEPS = 14  # questions along one way at the most
_FINE = 0.01  # relative width of the bracket at which a way with a deviation is done
_DETOURS = 20  # questions beside a way that missed the strip
_DETOUR = 0.15  # length of one detour, as a share of the way's length


@dataclass(frozen=True)
class Strip:
    """Where m ways from their seeds cross both boundaries; every field has leading dimension m."""

    low: Tensor  # (m,) float64, the greatest length known on the seed's side
    high: Tensor  # (m,) float64, the smallest length known in the strip or behind it, infinite if none is
    images: Tensor  # (m, c, h, w) uint8 at `high`, or of a detour that deviates
    deviates: Tensor  # (m,) bool, whether `images` does
    before: Tensor  # (m, 2) float64, both models' margins at `low`
    behind: Tensor  # (m, 2) float64, both models' margins at `high`


def along(origin: Tensor, ways: Tensor, lengths: Tensor) -> Tensor:
    """Images at lengths (m,) on ways (m, c, h, w) from their seeds in [0, 1]: uint8, rounded half up."""
    grey = (origin + lengths.view(-1, 1, 1, 1) * ways) * 255
    return (grey + 0.5).floor().clamp(0, 255).to(torch.uint8)


def walk(closest: Closest, rows: Tensor, ways: Tensor, start: Tensor) -> Strip:
    """Find the strip along ways (m, c, h, w) of length 1, first asked at length `start` (m,), for triggers `rows`.

    Outwards at least by a quarter a step, until an image deviates or both models have left the seed's label, or the
    way is longer than the trigger's distance; then inwards by regula falsi on the mean margin (to hit the strip)
    or, once in it, on the smaller margin (to leave it on the seed's side), every third step halving the bracket.
    """
    origin, reach = closest.origin[rows], closest.distance[rows]
    length = start.clamp(min=1 / 255).minimum(reach)
    strip = Strip(
        low=torch.zeros_like(length),
        high=torch.full_like(length, torch.inf),
        images=closest.seeds[rows],
        deviates=torch.zeros_like(rows, dtype=torch.bool),
        before=closest.seed_answers.margins[rows],
        behind=torch.zeros_like(closest.seed_answers.margins[rows]),
    )
    for step in range(_STEPS):
        fine = strip.deviates & (strip.high - strip.low < _FINE * strip.high)
        vain = strip.high.isinf() & (strip.low >= reach)
        going = (~fine & ~vain & (closest.left()[rows] > 0)).nonzero().squeeze(1)
        if not len(going):
            break
        images = along(origin[going], ways[going], length[going])
        answers = closest.ask(rows[going], images)
        strip = _narrowed(strip, going, length, images, answers.margins, answers.across, answers.deviates)
        length = _next_length(strip, closest.seed_answers.margins[rows], reach, halve=step % 3 == 2)
    return strip


def search_sideways(
    closest: Closest, rows: Tensor, ways: Tensor, slopes: Tensor, strip: Strip, waves: Waves, draws: Draws
) -> Strip:
    """Leave ways that crossed both boundaries at once, across their direction, until an image deviates.

    A climb on how far both models are on different sides: first along the difference of the models' slopes
    (m, 2, c, h, w) and against it, then along random waves; better detours are kept, and the length follows the mean
    margin back to the boundary.
    """
    missed = ~strip.deviates & strip.high.isfinite()
    length = torch.where(missed, (strip.low + strip.high) / 2, 0)
    images, deviates = strip.images.clone(), strip.deviates.clone()
    steepness = -(slopes.mean(1) * ways).flatten(1).sum(1).clamp(max=-1e-3)
    apart = slopes[:, 0] - slopes[:, 1]
    detour, best = torch.zeros_like(ways), torch.full_like(length, -torch.inf)
    for turn in range(_DETOURS):
        going = (missed & ~deviates & (closest.left()[rows] > 0)).nonzero().squeeze(1)
        if not len(going):
            break
        side = (apart if turn == 0 else -apart if turn == 1 else _random_side(waves, draws, turn))[going]
        side = side - _dot(side, ways[going]) * ways[going]
        tried = detour[going] + _DETOUR * length[going].view(-1, 1, 1, 1) * _unit(side)
        asked = along(closest.origin[rows[going]] + tried, ways[going], length[going])
        answers = closest.ask(rows[going], asked)
        one, other = answers.margins.unbind(1)
        sides = torch.maximum(torch.minimum(-one, other), torch.minimum(one, -other))
        better = sides > best[going]
        kept = going[better]
        detour[kept], best[kept] = tried[better], sides[better]
        back = (answers.margins.mean(1) / steepness[going]).clamp(-0.1, 0.1)
        length[kept] = (length[going] + back)[better]
        images[going[answers.deviates]] = asked[answers.deviates]
        deviates[going[answers.deviates]] = True
    return Strip(strip.low, strip.high, images, deviates, strip.before, strip.behind)


def _narrowed(
    strip: Strip, going: Tensor, length: Tensor, images: Tensor, margins: Tensor, across: Tensor, deviates: Tensor
) -> Strip:
    """The bracket after asking at `length[going]`: one end moved, for each way."""
    up, down = going[across], going[~across]
    low, high, before, behind = strip.low.clone(), strip.high.clone(), strip.before.clone(), strip.behind.clone()
    pictures, inside = strip.images.clone(), strip.deviates.clone()
    low[down], before[down] = length[down], margins[~across]
    high[up], behind[up] = length[up], margins[across]
    pictures[up], inside[up] = images[across], deviates[across]
    return Strip(low, high, pictures, inside, before, behind)


def _next_length(strip: Strip, at_seed: Tensor, reach: Tensor, halve: bool) -> Tensor:
    """Where to ask next on each way, (m,)."""
    before = torch.where(strip.deviates, strip.before.amin(1), strip.before.mean(1))
    behind = torch.where(strip.deviates, strip.behind.amin(1), strip.behind.mean(1))
    share = (before / (before - behind)).nan_to_num(0.5).clamp(0.1, 0.9)
    share = torch.full_like(share, 0.5) if halve else share
    inwards = strip.low + (strip.high - strip.low) * share
    start, now = at_seed.mean(1), strip.before.mean(1)
    linear = 1.05 * strip.low * (start / (start - now)).nan_to_num(torch.inf)
    outwards = torch.where(linear > 0, linear, torch.inf).clamp(1.25 * strip.low, 1.6 * strip.low).minimum(reach)
    return torch.where(strip.high.isinf(), outwards, inwards)


def _random_side(waves: Waves, draws: Draws, turn: int) -> Tensor:
    """Random waves of all lengths known, (m, c, h, w)."""
    size = len(waves.channels), len(waves.rows), len(waves.columns)
    return waves.images(draws.purpose(Purpose.DETOUR).purpose(turn).normal(*size).double())


def _dot(some: Tensor, others: Tensor) -> Tensor:
    return (some * others).flatten(1).sum(1).view(-1, 1, 1, 1)


def _unit(directions: Tensor) -> Tensor:
    return directions / _dot(directions, directions).sqrt().clamp(min=1e-12)
