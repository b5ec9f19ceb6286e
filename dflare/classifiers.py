"""The two black boxes under test and what they say about a batch of images."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from dflare.errors import InputError

Classifier = Callable[[Tensor], Tensor]
"""Images in [0, 1], float32 (n, c, h, w) -> raw scores (n, classes). Normalisation is the classifier's own business.

A classifier that knows probabilities returns their logarithms, so that the softmax of the scores gives them back.
"""


_SURE = 1e4  # a finite margin in place of an infinite one


class Outputs(NamedTuple):
    """Raw scores of both models on the same n images, (n, classes) each; everything else follows from them.

    Scores and not probabilities, because a softmax can round two different scores to one probability,
    and whether the top is tied decides what counts as a deviation.
    """

    original: Tensor
    compressed: Tensor

    @property
    def probabilities(self) -> tuple[Tensor, Tensor]:
        """Softmax of both models' scores, (n, classes) each, in [0, 1]."""
        return self.original.softmax(-1), self.compressed.softmax(-1)

    @property
    def labels(self) -> tuple[Tensor, Tensor]:
        """First top-scoring class of both models, (n,) int64 each."""
        return self.original.argmax(-1), self.compressed.argmax(-1)

    @property
    def shared_label(self) -> Tensor:
        """First class that is a top-scoring one of both models, (n,) int64; the original's label where they deviate."""
        shared = _top(self.original) & _top(self.compressed)
        return torch.where(shared.any(-1), shared.int().argmax(-1), self.original.argmax(-1))

    @property
    def deviates(self) -> Tensor:
        """Whether the sets of top-scoring classes are disjoint, (n,) bool."""
        return ~(_top(self.original) & _top(self.compressed)).any(-1)

    @property
    def tied(self) -> Tensor:
        """Whether the labels differ although the sets of top-scoring classes meet, (n,) bool."""
        original, compressed = self.labels
        return (original != compressed) & ~self.deviates

    @property
    def divergence(self) -> Tensor:
        """How far the two top-1 probabilities are apart, (n,) in [0, 1] (DFLARE, section 4.3)."""
        original, compressed = self.probabilities
        return (original.amax(-1) - compressed.amax(-1)).abs()

    @property
    def margin(self) -> Tensor:
        """Smaller of the two models' top-1 minus top-2 probability, (n,) in [0, 1]."""
        tops = [probabilities.topk(2, -1).values for probabilities in self.probabilities]
        return torch.minimum(tops[0][:, 0] - tops[0][:, 1], tops[1][:, 0] - tops[1][:, 1])

    @property
    def score_margin(self) -> Tensor:
        """Smaller of the two models' highest minus second highest score, (n,) >= 0; 0 for ties.

        Unlike the margin of probabilities it does not saturate where a model is sure.
        """
        tops = [scores.topk(2, -1).values for scores in self]
        return torch.minimum(*(top[:, 0] - top[:, 1] for top in tops))

    def margins_of(self, label: Tensor) -> Tensor:
        """Both models' score of a class (n,) minus their best other score, float64 (n, 2); 0 for a tie.

        Negative where a model prefers another class. Where a model finds the class certain or impossible (scores that
        are logarithms of 0), its margin says nothing of how far the boundary is, and the other model's stands in.
        """
        margins = []
        for scores in self:
            own = scores.gather(-1, label[:, None])
            others = scores.scatter(-1, label[:, None], -torch.inf).amax(-1, keepdim=True)
            margins.append(own.double() - others.double())
        both = torch.cat(margins, dim=-1)
        return torch.where(
            both.isinf() & both.flip(-1).isfinite(), both.flip(-1), both.nan_to_num(posinf=_SURE, neginf=-_SURE)
        )

    @property
    def joint(self) -> Tensor:
        """The pair of probability vectors side by side, (n, 2 * classes); what novelty is measured on."""
        return torch.cat(self.probabilities, dim=-1)

    def take(self, rows: Tensor) -> "Outputs":
        """The outputs of some of the images, selected by mask or index."""
        return Outputs(self.original[rows], self.compressed[rows])


@dataclass(frozen=True)
class ModelPair:
    """An original classifier and its compressed counterpart, asked only for predictions.

    `pair(images)` takes uint8 (n, c, h, w) and counts n queries in `asked[0]`; one query is one image shown to both.
    """

    original: Classifier
    compressed: Classifier
    asked: list[int] = field(default_factory=lambda: [0])

    def __call__(self, images: Tensor) -> Outputs:
        return self._ask(images, lambda classifier, pixels: classifier(pixels))

    def one_by_one(self, images: Tensor) -> Outputs:
        """What both say of one or more uint8 images (n, c, h, w), each asked alone; counts n queries too."""
        return self._ask(images, lambda classifier, pixels: torch.cat([classifier(one) for one in pixels.split(1)]))

    @torch.inference_mode()
    def _ask(self, images: Tensor, answer: Callable[[Classifier, Tensor], Tensor]) -> Outputs:
        check_images(images)
        self.asked[0] += len(images)
        pixels = to_unit(images)
        outputs = Outputs(
            check_scores(answer(self.original, pixels), len(images), "original"),
            check_scores(answer(self.compressed, pixels), len(images), "compressed"),
        )
        if outputs.original.shape != outputs.compressed.shape:
            raise InputError(
                "the two models must know the same classes, got "
                f"{outputs.original.shape[1]} from the original and {outputs.compressed.shape[1]} from the compressed"
            )
        return outputs


def ask(classifier: Classifier, images: Tensor, name: str = "model", batch_size: int = 500) -> Tensor:
    """What one classifier says of uint8 images (n, c, h, w): scores (n, classes) float32, asked in batches.

    Raises `InputError` for scores of another shape, NaN or infinity; `name` says whose.
    """
    check_images(images)
    with torch.inference_mode():
        parts = images.split(batch_size)
        scores = torch.cat([check_scores(classifier(to_unit(part)), len(part), name) for part in parts])
    return scores.clone()  # an ordinary tensor, which a loss may keep for its gradient


def to_unit(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1], same shape: what a `Classifier` takes."""
    return images.float() / 255


def check_images(images: Tensor) -> None:
    """Raise `InputError` unless `images` is uint8 (n, c, h, w)."""
    if images.dtype != torch.uint8 or images.ndim != 4:
        kind = str(images.dtype).removeprefix("torch.")
        raise InputError(f"images must be uint8 (n, channels, height, width), got {kind} {tuple(images.shape)}")


def check_scores(scores: Tensor, n: int, name: str) -> Tensor:
    """The scores as float32 (n, classes); raise `InputError` for another shape, fewer than 2 classes, NaN or +inf.

    -inf, the logarithm of probability 0, is no error as long as some class is possible.
    """
    if not isinstance(scores, Tensor) or scores.ndim != 2 or scores.shape[0] != n or scores.shape[1] < 2:
        came = tuple(scores.shape) if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise InputError(f"the {name} model must return scores of shape ({n}, classes) for {n} images, got {came}")
    scores = scores.float()
    possible = scores.amax(-1).isfinite()  # false where a score is NaN or +inf, and where all are -inf
    if not bool(possible.all()):
        bad = int((~possible).sum())
        raise InputError(f"the {name} model must return finite scores, got NaN or infinity for {bad} of {n} images")
    return scores


def _top(scores: Tensor) -> Tensor:
    """Which classes share the highest score, (n, classes) bool."""
    return scores == scores.amax(-1, keepdim=True)
