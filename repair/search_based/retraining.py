"""BIRDNN's retraining for pairs: negatives imitate the behaviour of positives (Liang et al., 2024, section 4)."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from dflare.classifiers import to_unit
from repair.compression import Compressed
from repair.data import Examples, Mixture
from repair.trainable import Trainable

MOMENTUM = 0.9
"""Of stochastic gradient descent, as published."""

NEGATIVES, POSITIVES = 1.0, 1.0
"""Alpha and beta, the weights of the two terms of the loss."""

CHUNK = 1000
"""Negatives whose distances to all positives are held at once."""


def lesson(trainable: Trainable, triggers: Examples, clean: Examples) -> tuple[Examples, Examples]:
    """Triggers and agreeing clean images with what they are to answer: `targets` are scores (n, classes) here.

    A positive keeps its scores. A negative gets those of the nearest positive (`nearest_behaviour`).
    """
    said, usual = (scores_of(trainable, examples) for examples in (triggers, clean))
    right = clean.targets.argmax(-1)
    agrees = usual.argmax(-1) == right
    wanted = nearest_behaviour(said, triggers.targets.argmax(-1), usual[agrees], right[agrees])
    return Examples(triggers.images, wanted), Examples(clean.images[agrees], usual[agrees])


def nearest_behaviour(negative: Tensor, wanted: Tensor, positive: Tensor, said: Tensor) -> Tensor:
    """For each negative output (n, classes) the nearest positive one (Euclidean), row i for row i.

    Right for image i is what the original calls it, `wanted` (n,): the positives of its domain are those that are
    called the same, `said` (m,). A positive of another class behaves rightly for itself and wrongly for i, and as
    the pair disagrees, the nearest of all is as likely of the wrong class. All positives where none is of that class.
    """
    found = []
    for outputs, labels in zip(negative.split(CHUNK), wanted.split(CHUNK), strict=True):
        distances = torch.cdist(outputs, positive)
        other = labels[:, None] != said[None]
        other &= ~other.all(-1, keepdim=True)
        found.append(distances.masked_fill(other, torch.inf).argmin(-1))
    return positive[torch.cat(found)] if found else positive[:0]


def retrained(trainable: Trainable, mixture: Mixture, rate: float, start: int = 0) -> Iterator[dict[str, Tensor]]:
    """The projected weights, as they come and after each step of gradient descent; it does not end by itself.

    `mixture`: batches of what `lesson` gives, of which the first is number `start`. The loss of a step is alpha * mean
    squared error of the negatives' scores + beta * that of the positives', straight through the projections.
    """
    student = Compressed(trainable.module, trainable.plan, trainable.shown)
    moving = [weight for name, weight in trainable.module.named_parameters() if name not in trainable.scales]
    moving = [weight for weight in moving if weight.requires_grad]
    optimizer = torch.optim.SGD(moving, lr=rate, momentum=MOMENTUM)
    yield projected(student)
    number = start
    while True:
        batch = mixture[number]
        errors = (student(batch.images) - batch.targets).square().mean(-1)
        weight = torch.where(batch.is_trigger, NEGATIVES, POSITIVES)
        counts = [max(1, int(kind.sum())) for kind in (batch.is_trigger, ~batch.is_trigger)]
        share = torch.where(batch.is_trigger, 1 / counts[0], 1 / counts[1])
        optimizer.zero_grad()
        (errors * weight * share).sum().backward()
        optimizer.step()
        number += 1
        yield projected(student)


def projected(student: Compressed) -> dict[str, Tensor]:
    """A copy of the weights as they count."""
    with torch.no_grad():
        return {name: weight.detach().clone() for name, weight in student.weights().items()}


def set_weights(trainable: Trainable, weights: Mapping[str, Tensor]) -> None:
    """Let the model have these weights."""
    with torch.no_grad():
        for name, weight in weights.items():
            trainable.module.get_parameter(name).copy_(weight)


def scores_of(trainable: Trainable, examples: Examples) -> Tensor:
    """What the compressed model answers, (n, classes)."""
    student = Compressed(trainable.module, trainable.plan, trainable.shown)
    with torch.no_grad():
        return torch.cat([student(to_unit(part)) for part in examples.images.split(200)])
