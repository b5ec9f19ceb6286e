"""The probe set: mutated images that no model chose, for an unbiased rate of deviation."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dflare.mutations import MUTATIONS, mutate
from dflare.random import Draws, Purpose

LENGTHS = (1, 2, 4, 8, 16)
"""Mutations in a path, in equal shares."""

SEED = 0x9E0BE
"""Fixed, whatever the run's own seed is: two runs on the same seeds are judged on the same images."""

KEPT_BYTES = 2**28
"""Memory that a probe set may take to be kept, rather than made anew for every model."""


@dataclass(frozen=True)
class ProbeSet:
    """`count` images from the seeds in turn, on paths of uniformly drawn published mutations."""

    seeds: Tensor  # (n, c, h, w) uint8
    ids: Tensor  # (n,) int64
    count: int

    def lengths(self) -> Tensor:
        """Length of each image's path, (count,) int64."""
        return self._lengths(torch.arange(self.count))

    def chunks(self, size: int = 1000) -> Iterator[Tensor]:
        """The images in order, uint8, at most `size` at a time; the same whatever the size.

        A set that fits into `KEPT_BYTES` is made once and kept.
        """
        if self.count * self.seeds[0].numel() <= KEPT_BYTES:
            yield from self._kept.split(size)
            return
        for start in range(0, self.count, size):
            yield self._images(torch.arange(start, min(start + size, self.count)))

    @cached_property
    def _kept(self) -> Tensor:
        return torch.cat([self._images(numbers) for numbers in torch.arange(self.count).split(1000)])

    def _images(self, numbers: Tensor) -> Tensor:
        turn = numbers.div(len(self.ids), rounding_mode="floor")
        rows, lengths = numbers % len(self.ids), self._lengths(numbers)
        images = self.seeds[rows].clone()
        for step in range(1, max(LENGTHS) + 1):
            going = (lengths >= step).nonzero().squeeze(-1)
            if len(going):
                draws = Draws.of(SEED, self.ids[rows[going]], turn[going] * (max(LENGTHS) + 1) + step)
                choice = draws.purpose(Purpose.PROPOSAL).integers(len(MUTATIONS))
                images[going] = mutate(images[going], choice, list(MUTATIONS.values()), draws)
        return images

    def _lengths(self, numbers: Tensor) -> Tensor:
        """Lengths take turns over the seeds, one further each time round: every seed meets every length."""
        turn = numbers.div(len(self.ids), rounding_mode="floor")
        return torch.tensor(LENGTHS)[(numbers % len(self.ids) + turn) % len(LENGTHS)]
