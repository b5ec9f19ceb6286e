"""Real images of other classes, as ends of ways: what lies between a seed and one of them crosses a boundary."""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from dflare.classifiers import ModelPair, Outputs, check_images

LEVELS = 16
"""Grey levels of the sketches that distances are measured on: few, so that every sum is exact in float32."""

SIDE = 32
"""Pixels a side of a sketch, at most."""


@dataclass(frozen=True)
class References:
    """k images with what both models say of them; only those are used on which the pair agrees."""

    images: Tensor  # (k, c, h, w) uint8
    outputs: Outputs  # (k, classes)

    @classmethod
    def ask(cls, pair: ModelPair, images: Tensor, batch_size: int = 256) -> "References":
        """References from images uint8 (k, c, h, w); costs one question each, counted by the pair."""
        check_images(images)
        parts = [pair(part) for part in images.split(batch_size)]
        return cls(images, Outputs(*(torch.cat(scores) for scores in zip(*parts, strict=True))))

    def nearest(self, images: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The `count` nearest references of another class than `labels` (n,) for images uint8 (n, c, h, w).

        Their numbers int64 (n, count), or (n, k) where k is less, the nearest first, and how many of them there
        really are (n,); what lies behind means nothing. Distances are Euclidean between sketches, in whole numbers, so
        ties and order never depend on the batch.
        """
        ours, theirs = sketch(images), self._sketches
        apart = theirs.square().sum(-1) - 2 * (ours @ theirs.T)  # and |ours|^2, the same for all
        usable = self._agreed & (labels[:, None] != self.outputs.original.argmax(-1))
        number = torch.arange(len(self.images), device=apart.device)
        unique = apart.double() * len(number) + number  # so that ties go by number
        ranked = unique.masked_fill(~usable, torch.inf).topk(min(count, len(number)), largest=False).indices
        return ranked, usable.sum(-1).clamp(max=ranked.shape[1])

    @cached_property
    def _sketches(self) -> Tensor:
        return sketch(self.images)

    @cached_property
    def _agreed(self) -> Tensor:
        original, compressed = self.outputs.labels
        return (original == compressed) & ~self.outputs.deviates


def sketch(images: Tensor) -> Tensor:
    """Images uint8 (n, c, h, w) in few pixels and grey levels, float32 (n, d) of whole numbers below `LEVELS`."""
    side = -(-max(images.shape[-2:]) // SIDE)
    pixels = images.float()
    if side > 1:
        pixels = F.avg_pool2d(pixels, side, ceil_mode=True)
    return (pixels * (LEVELS / 256)).floor().flatten(1)
