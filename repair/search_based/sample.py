"""What a search judges its candidates on: negatives, which are to change, and positives, which are to stay."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dflare.classifiers import to_unit
from dflare.errors import InputError
from repair.compression import Compressed
from repair.data import Examples
from repair.search_based.candidates import Candidates, Known
from repair.search_based.swarm import Best, Cost
from repair.trainable import Trainable

NEGATIVES = 128
"""Triggers that candidates are judged on, at most."""

POSITIVES = 256
"""Clean images that candidates are judged on, at most."""

TRIED = 2000
"""Clean images of which the positives are those on which the pair agrees."""


@dataclass(frozen=True)
class Sample:
    """Images with the original's probabilities. Right for a pair is what agrees with the original."""

    negative: Examples  # triggers; for a placebo their clean seeds
    positive: Examples  # clean images on which the pair agrees


@dataclass(frozen=True)
class Search:
    """A search under way: what it may move, and the weights it has come to."""

    moves: tuple[str, ...]  # names of parameters, of single weights (`Place`), or of neurons
    weights: Iterator[dict[str, Tensor]]  # projected, those that may differ; as they came, then after each iteration


class Edit(Protocol):
    """What the numbers that a search looks for mean for the model's weights."""

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that it changes."""
        ...

    def weights(self, x: Tensor) -> dict[str, Tensor]:
        """These parameters for candidates (candidates, dimensions), (candidates, ...) each; zeros are no change."""
        ...


Fitness = Callable[[Tensor, Tensor], Tensor]
"""Margins of negatives (candidates, n) and of positives (candidates, m) -> what is to be large, (candidates,)."""


def draw(trainable: Trainable, triggers: Examples, clean: Examples, generator: torch.Generator) -> Sample:
    """As many triggers and agreeing clean images as candidates are judged on.

    Which rows are drawn depends on the numbers of images and the generator alone, so that a placebo is judged on the
    seeds of the triggers. Raises `InputError` where the pair agrees on none of the clean images.
    """
    rows = torch.randperm(len(triggers), generator=generator)[:NEGATIVES]
    tried = _take(clean, torch.randperm(len(clean), generator=generator)[:TRIED])
    right = agrees(trainable, tried).nonzero().squeeze(-1)[:POSITIVES]
    if not len(right):
        raise InputError("a repair by search needs clean train images on which the two models agree, found none")
    return Sample(_take(triggers, rows), _take(tried, right))


def agrees(trainable: Trainable, examples: Examples) -> Tensor:
    """Whether the compressed model says of each image what the original says, (n,) bool."""
    student = Compressed(trainable.module, trainable.plan, trainable.shown)
    with torch.no_grad():
        labels = torch.cat([student(to_unit(part)).argmax(-1) for part in examples.images.split(200)])
    return labels == examples.targets.argmax(-1)


def searched(
    trainable: Trainable,
    sample: Sample,
    edit: Edit,
    fitness: Fitness,
    optimise: Callable[[Cost], Iterator[Best]],
) -> Iterator[dict[str, Tensor]]:
    """The projected weights of the best candidate so far, at the start and after each iteration of an optimiser.

    Where there is nothing to move, nothing, once.
    """
    if not edit.names:
        yield {}
        return
    candidates = Candidates(trainable, edit.names, sample.positive.images)
    both = candidates.known(sample.negative), candidates.known(sample.positive)
    together = Known(torch.cat([one.values for one in both]), torch.cat([one.right for one in both]))

    def cost(x: Tensor) -> Tensor:
        margins = candidates.margins(together, edit.weights(x))
        return -fitness(margins[:, : len(both[0])], margins[:, len(both[0]) :])

    for best in optimise(cost):
        yield {name: each[0] for name, each in candidates.projected(edit.weights(best.values[None])).items()}


def _take(examples: Examples, rows: Tensor) -> Examples:
    return Examples(examples.images[rows], examples.targets[rows])
