"""BIRDNN's retraining for image classifiers: points that violate imitate points of their class that do not.

Liang et al. (arXiv 2305.03365; Neural Networks 2024). Their domains are balls of one class each, so the behaviour that
a negative point imitates is the nearest one among positive points of its own class: the nearest of all would, near a
border, be that of the wrong class.
"""

import time

import torch
from torch import Tensor

from dflare.errors import InputError
from repair.compression import Compressed
from repair.properties.balls import Attack, Balls, attack, violated
from repair.properties.birdnn import Retraining, nearest_behaviour
from repair.properties.robustness import Others, RobustRepair
from repair.properties.students import current, scores_of, training
from repair.trainable import Trainable

DRAWS = 4
"""Points of each ball, beside its centre: one that an attack finds and the others uniform."""


def retrain_balls(
    trainable: Trainable,
    bad: Balls,
    others: Others,
    generator: torch.Generator,
    settings: Retraining = Retraining(),  # noqa: B008 (frozen)
) -> RobustRepair:
    """The projected weights after retraining; `trainable` is left as it was.

    Negative are the points of `bad` that violate; positive all points, of other balls and clean images too, that do
    not; loss = alpha * (corrected negatives) + beta * (positives), mean squared errors of scores, by
    SGD. Raises `InputError` where no point of a class is positive, `ValueError` without balls to repair.
    """
    if not len(bad):
        raise ValueError("a repair needs balls, got none")
    began = time.perf_counter()
    with training(trainable) as student:
        parts = [_points(student, balls, generator) for balls in (bad, others.good) if len(balls)]
        images, wanted = (torch.cat(some) for some in zip(*parts, (others.clean, others.wanted), strict=True))
        scores = scores_of(student, images)
        right = ~violated(scores, wanted)
        wrong = ~right & (torch.arange(len(images)) < len(parts[0][0]))
        corrected = nearest_of_class(scores[wrong], wanted[wrong], scores[right], wanted[right])
        negative, positive, kept = images[wrong], images[right], scores[right]
        optimizer = torch.optim.SGD(trainable.module.parameters(), lr=settings.rate, momentum=settings.momentum)
        steps = 0
        for _ in range(settings.epochs if wrong.any() else 0):
            orders = [torch.randperm(len(some), generator=generator) for some in (negative, positive)]
            for chosen, good in zip(*(order.split(settings.batch) for order in orders), strict=False):
                answers = student(torch.cat([negative[chosen], positive[good]])).float()
                loss = settings.negatives * (answers[: len(chosen)] - corrected[chosen]).square().mean()
                loss = loss + settings.positives * (answers[len(chosen) :] - kept[good]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                steps += 1
        after = violated(scores_of(student, images), wanted)
        weights = current(student)
    left, broken = int((after & wrong).sum()), int((after & right).sum())
    return RobustRepair(weights, steps, left, broken, time.perf_counter() - began)


def nearest_of_class(negative: Tensor, wanted: Tensor, positive: Tensor, classes: Tensor) -> Tensor:
    """For each negative output (n, outputs) the nearest positive one (m, outputs) of its class, row i for row i.

    `wanted` (n,) and `classes` (m,) say which class is right for each. Raises `InputError` for a class without any.
    """
    found = torch.empty_like(negative)
    for label in wanted.unique().tolist():
        candidates = positive[classes == label]
        if not len(candidates):
            raise InputError(
                f"expected points of class {label} that are answered rightly, so that others can imitate them, found "
                "none; give more well-behaved balls or clean images"
            )
        found[wanted == label] = nearest_behaviour(negative[wanted == label], candidates)
    return found


def _points(student: Compressed, balls: Balls, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (n, c, h, w) of balls, and the class that is right for each, (n,)."""
    rows = torch.arange(len(balls))
    drawn = [balls.sample(rows, generator) for _ in range(DRAWS - 1)]
    images = [balls.centres, attack(student, balls, Attack(steps=10), generator), *drawn]
    return torch.cat(images), balls.wanted.repeat(DRAWS + 1)
