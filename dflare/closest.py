"""Bookkeeping of shrinking: what was asked, and the deviating image closest to each seed so far."""

from typing import NamedTuple

import torch
from torch import Tensor

from dflare.classifiers import ModelPair
from dflare.distances import l_2
from dflare.limits import Limits

_RIVALS = 9  # other classes whose boundary may be the nearest; all there are in sets of ten classes
_LOWEST = -1e4  # a score; the logarithm of probability 0 would spoil every difference


class Answers(NamedTuple):
    """What both models say of m images, relative to the label of each image's seed."""

    gaps: Tensor  # (m, 2, rivals) float64, score of the seed's label minus that of each rival, in both models
    margins: Tensor  # (m, 2) float64, the same against the best of all other classes
    deviates: Tensor  # (m,) bool

    @property
    def across(self) -> Tensor:
        """Whether an image lies in the strip between the two models' boundaries or behind both, (m,) bool."""
        return self.deviates | (self.margins < 0).all(1)


class Closest:
    """The closest deviating images of n triggers, kept up to date by every question.

    `images` uint8 (n, c, h, w) and `distance` (n,) change when an image asked deviates, is closer to its seed than
    the one known and within the limits. `queries` (n,) counts what was asked; no trigger may ask more than
    `max_queries`. The seeds are asked first: their answers are `seed_answers`.
    """

    def __init__(
        self, pair: ModelPair, seeds: Tensor, triggers: Tensor, limits: Limits, max_queries: int, batch_size: int
    ) -> None:
        self.pair, self.seeds, self.limits = pair, seeds, limits
        self.max_queries, self.batch_size = max_queries, batch_size
        self.origin = seeds.double() / 255
        self.images, self.distance = triggers.clone(), l_2(triggers, seeds)
        self.queries = torch.zeros(len(seeds), dtype=torch.int64, device=seeds.device)
        everyone = torch.arange(len(seeds), device=seeds.device)
        scores, deviates = self._scores(everyone, seeds)
        order = scores[:, 0].argsort(dim=1, descending=True, stable=True)
        self.label, self.rivals = order[:, 0], order[:, 1 : 1 + _RIVALS]
        self.seed_answers = self._answers(everyone, seeds, scores, deviates)

    def left(self) -> Tensor:
        """How many more questions each trigger may ask, (n,) int64."""
        return self.max_queries - self.queries

    def ask(self, rows: Tensor, images: Tensor) -> Answers:
        """Answers to uint8 images (m, c, h, w) for the triggers `rows` (m,); a trigger may come several times."""
        return self._answers(rows, images, *self._scores(rows, images))

    def _scores(self, rows: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (m, 2, classes) float64 and deviations (m,) bool, asked in batches and counted."""
        self.queries += torch.bincount(rows, minlength=len(self.queries))
        asked = [self.pair(part) for part in images.split(self.batch_size)]
        scores = torch.cat([torch.stack([one.original, one.compressed], 1) for one in asked])
        return scores.double().clamp(min=_LOWEST), torch.cat([one.deviates for one in asked])

    def _answers(self, rows: Tensor, images: Tensor, scores: Tensor, deviates: Tensor) -> Answers:
        self._keep(rows[deviates], images[deviates])
        label = self.label[rows][:, None, None].expand(-1, 2, 1)
        own = scores.gather(2, label)
        others = scores.scatter(2, label, -torch.inf)
        rivals = self.rivals[rows][:, None].expand(-1, 2, -1)
        return Answers(own - scores.gather(2, rivals), (own - others.amax(2, keepdim=True)).squeeze(2), deviates)

    def _keep(self, rows: Tensor, images: Tensor) -> None:
        """Keep those deviating images that are closer than the ones known; the first of equally close ones stays."""
        distance = l_2(images, self.seeds[rows])
        better = (distance < self.distance[rows]) & self.limits.respected(self.seeds[rows], images)
        for place in better.nonzero().squeeze(1).tolist():
            row = int(rows[place])
            if distance[place] < self.distance[row]:
                self.images[row], self.distance[row] = images[place], distance[place]
