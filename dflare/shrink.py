"""Make triggers minimal: as close to their seeds as they come while the two models still deviate."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dflare import strip
from dflare.classifiers import ModelPair
from dflare.closest import Closest
from dflare.limits import Limits
from dflare.random import Draws
from dflare.seeds import pixel_hash
from dflare.slopes import Waves, measure, nearest_boundaries

_GAIN = 0.98  # of the distance; a round that ends above it has not helped


@dataclass(frozen=True)
class Shrunk:
    """Triggers after shrinking, with leading dimension n in every field."""

    images: Tensor  # (n, c, h, w) uint8, never further from the seed in L2 than before
    queries: Tensor  # (n,) int64, images asked for each, the seed among them, confirmations not


def shrink(
    pair: ModelPair,
    confirm: ModelPair,
    seed_images: Tensor,
    triggers: Tensor,
    *,
    max_queries: int,
    batch_size: int,
    seed: int,
    limits: Limits | None = None,
) -> Shrunk:
    """Move triggers uint8 (n, c, h, w) towards their seeds in L2 while they deviate, by scores alone.

    First along the straight line between the two, then in rounds: slopes of both models' margins, long waves first;
    from the seed straight to each model's nearest boundary; into the strip between the two boundaries. An image
    counts when it was itself asked of `pair`, deviates, respects `limits` and deviates again when asked alone of
    `confirm`; a trigger that nothing confirmed comes back as it was. At most `max_queries` images are asked for each.
    A result depends on `seed`, seed image and trigger, never on the batch (up to the models' own rounding).
    """
    if not len(triggers) or max_queries < 1:
        return Shrunk(triggers.clone(), torch.zeros(len(triggers), dtype=torch.int64, device=triggers.device))
    parts = [
        _shrink_together(pair, confirm, seeds, some, max_queries, batch_size, seed, limits or Limits())
        for seeds, some in zip(seed_images.split(batch_size), triggers.split(batch_size), strict=True)
    ]
    return Shrunk(torch.cat([part.images for part in parts]), torch.cat([part.queries for part in parts]))


def _shrink_together(
    pair: ModelPair,
    confirm: ModelPair,
    seeds: Tensor,
    triggers: Tensor,
    max_queries: int,
    batch_size: int,
    seed: int,
    limits: Limits,
) -> Shrunk:
    """Shrink up to one batch of triggers, a round of all of them at a time."""
    closest = Closest(pair, seeds, triggers, limits, max_queries, batch_size)
    confirmed = _Confirmed(confirm, closest)
    line = (triggers.double() - seeds.double()) / 255
    length = closest.distance.clone()
    moved = (length > 0).nonzero().squeeze(1)
    strip.walk(closest, moved, line[moved] / length[moved].view(-1, 1, 1, 1), length[moved])
    confirmed.update()
    waves, ids = Waves.of(seeds), pixel_hash(seeds).to(seeds.device)
    sizes = len(waves.channels), len(waves.rows), len(waves.columns)
    slopes = torch.zeros(*closest.seed_answers.gaps.shape, *sizes, dtype=torch.float64, device=seeds.device)
    points, vain, step = seeds.clone(), torch.zeros_like(closest.queries), 0
    going = torch.ones_like(vain, dtype=torch.bool)  # who stops stays out, whatever the others still do
    while True:
        shell = waves.shells[step % len(waves.shells)]
        going &= (closest.left() > len(shell) + 1) & (vain < len(waves.shells)) & (closest.distance > 0)
        rows = going.nonzero().squeeze(1)
        if not len(rows):
            return Shrunk(closest.images, closest.queries)
        before = closest.distance[rows].clone()
        draws = Draws.of(seed, ids[rows], torch.full_like(rows, step))
        points[rows] = _round(closest, waves, shell, rows, points[rows], slopes, draws)
        confirmed.update()
        vain[rows] = torch.where(closest.distance[rows] < _GAIN * before, 0, vain[rows] + 1)
        step += 1


def _round(
    closest: Closest, waves: Waves, shell: Tensor, rows: Tensor, points: Tensor, slopes: Tensor, draws: Draws
) -> Tensor:
    """Refresh the slopes at the points (m, c, h, w), walk to both boundaries; returns the points for the next round."""
    gaps = measure(closest, waves, shell, rows, points, slopes)
    origin = closest.origin[rows]
    near, steep = nearest_boundaries(origin, points.double() / 255, gaps, slopes[rows], waves)
    shortest = torch.full_like(near[:, 0], torch.inf)
    for model in range(2):
        norm = steep[:, model].flatten(1).square().sum(1).sqrt()
        some = (norm > 0).nonzero().squeeze(1)
        ways = -steep[some, model] / norm[some].view(-1, 1, 1, 1)
        found = strip.walk(closest, rows[some], ways, near[some, model])
        found = strip.search_sideways(closest, rows[some], ways, steep[some], found, waves, draws.purpose(model)[some])
        shorter = found.high < shortest[some]
        shortest[some[shorter]] = found.high[shorter]
        points[some[shorter]] = found.images[shorter]
    return points


class _Confirmed:
    """The last confirmed image of each trigger, at first the trigger; brings `closest` back to it where one fails."""

    def __init__(self, confirm: ModelPair, closest: Closest) -> None:
        self.confirm, self.closest = confirm, closest
        self.images, self.distance = closest.images.clone(), closest.distance.clone()

    def update(self) -> None:
        """Ask every image that came closer since the last time again, alone."""
        for row in (self.closest.distance < self.distance).nonzero().squeeze(1).tolist():
            here = slice(row, row + 1)
            good = bool(self.confirm(self.closest.images[here]).deviates)
            source, target = (self.closest, self) if good else (self, self.closest)
            target.images[here], target.distance[here] = source.images[here], source.distance[here]
