"""A model opened for repair, run layer by layer on images whose right answers are known."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dflare.classifiers import Outputs, to_unit
from repair.data import Examples
from repair.locating.layers import Layer, find_layers
from repair.locating.tracing import Asked, trace
from repair.trainable import LEAST, Trainable

BATCH = 64
"""Images run at once: their intermediate values and gradients are all in memory."""


@dataclass(frozen=True)
class Part:
    """Some of the images, as many as a run takes; where that is more than are left, the first is repeated."""

    images: Tensor  # (n', c, h, w) float32 in [0, 1]
    original: Tensor  # (n', classes) log-probabilities
    count: int  # rows that count, the first ones


class Watched:
    """What every method of localisation asks of a model."""

    def __init__(self, trainable: Trainable) -> None:
        self.trainable, self.trace = trainable, trace(trainable.module)
        self.parameters = {name: weight.detach() for name, weight in trainable.module.named_parameters()}
        self.layers = find_layers(self.trace, self.parameters)

    def only_by_image(self, images: Tensor) -> None:
        """Forget layers whose values are not (n, ...) for n of the uint8 images: they mix or turn images."""
        least, most = self.trace.batches
        shown = to_unit(images[:1]).expand(min(max(3, least), most), *images.shape[1:])
        values = {value for layer in self.layers for value in (layer.reads, layer.output, layer.end)}
        asked = Asked(keep=values)
        with torch.no_grad():
            self.scores(shown, asked)
        fits = {name for name, value in asked.kept.items() if value.ndim > 1 and len(value) == len(shown)}
        self.layers = [layer for layer in self.layers if {layer.reads, layer.output, layer.end} <= fits]

    @property
    def weighted(self) -> list[Layer]:
        """The layers that have weights."""
        return [layer for layer in self.layers if not layer.rounds]

    def scores(self, images: Tensor, asked: Asked) -> Tensor:
        """Scores (n, classes) of images in [0, 1]."""
        return self.trainable.shown(lambda values: self.trace.run(values, asked))(images)

    def parts(self, examples: Examples, size: int = BATCH) -> Iterator[Part]:
        """The examples in batches that the model takes."""
        least, most = self.trace.batches
        for rows in torch.arange(len(examples)).split(min(size, most)):
            filled = torch.cat([rows, rows[:1].expand(max(0, least - len(rows)))])
            original = examples.targets[filled].clamp(min=LEAST).log()
            yield Part(to_unit(examples.images[filled]), original, len(rows))

    @torch.no_grad()
    def outcome(self, examples: Examples, asked: Asked) -> "Outcome":
        """What the model, changed as asked, says of the examples; values to keep are gathered over all of them."""
        found, kept = [], []
        for part in self.parts(examples):
            scores = self.scores(part.images, asked)[: part.count]
            outputs = Outputs(part.original[: part.count], scores)
            found.append((margin(scores, part.original[: part.count]), ~outputs.deviates))
            kept.append({name: value[: part.count] for name, value in asked.kept.items()})
            asked.kept.clear()
        gathered = {name: torch.cat([each[name] for each in kept]) for name in asked.keep}
        return Outcome(torch.cat([one for one, _ in found]), torch.cat([two for _, two in found]), gathered)

    def gradients(self, part: Part, asked: Asked, weights: Collection[str] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """Margins (n,) and the gradient of their sum by the kept values and by the weights named."""
        latent = {name: self.parameters[name].clone().requires_grad_() for name in weights}
        asked.weights = {**asked.weights, **latent}
        with torch.enable_grad():
            images = part.images.clone().requires_grad_()  # so that values before the first weight have one too
            margins = margin(self.scores(images, asked), part.original)[: part.count]
            wanted = {**asked.kept, **latent}
            found = torch.autograd.grad(margins.sum(), list(wanted.values()), allow_unused=True)
        values = zip(wanted.items(), found, strict=True)
        return margins.detach(), {
            name: torch.zeros_like(value) if grad is None else grad for (name, value), grad in values
        }


@dataclass(frozen=True)
class Outcome:
    """What a changed model says of n images."""

    margins: Tensor  # (n,) score of the original's label minus the best other
    agrees: Tensor  # (n,) bool
    kept: dict[str, Tensor]


def margin(scores: Tensor, original: Tensor) -> Tensor:
    """Score of the original's label minus the best other score, (n,): negative where the model prefers another."""
    label = original.argmax(-1, keepdim=True)
    own = scores.gather(-1, label).squeeze(-1)
    return own - scores.scatter(-1, label, -torch.inf).amax(-1)


def by_channel(values: Tensor) -> Tensor:
    """Means (n, channels) of an intermediate value (n, channels, ...)."""
    return values.flatten(2).mean(-1) if values.ndim > 2 else values.reshape(len(values), -1)


def rows_of(weight: Tensor, axis: int) -> Tensor:
    """A weight, or one number each of its channels (a bias), as (channels, ...)."""
    return weight.movedim(axis, 0).flatten(1) if weight.ndim > 1 else weight[:, None]
