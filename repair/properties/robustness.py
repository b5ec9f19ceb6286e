"""Robustness repair of image classifiers: attacked balls are pushed to their class, everything else stays as it is."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from repair.compression import Compressed
from repair.properties.balls import Attack, Balls, attack, margins, violated
from repair.properties.fidelity import difference
from repair.properties.students import current, scores_of, training
from repair.trainable import Trainable

LEAST = 1e-6
"""What the mean depth of violations counts as at least, in the scores' unit."""


@dataclass(frozen=True)
class RobustSettings:
    """How hard and how long `repair_balls` pushes."""

    margin: float = 0.5  # lead to which attacked points are pushed, in mean depths of the violations at the start
    fidelity: float = 2.0  # weight of clean images scoring as they did, >= 0
    batch: int = 64  # balls of each kind, and clean images
    rate: float = 1e-2  # of Adam, in the root mean square of each weight, falling to 0 as a cosine
    steps: int = 150
    look: int = 50  # steps between two looks at all balls
    attack: Attack = field(default_factory=lambda: Attack(steps=2, last=0.25))  # of a step, from the points before
    looking: Attack = field(default_factory=lambda: Attack(steps=10))  # of the looks


@dataclass(frozen=True)
class RobustRepair:
    """The projected weights of a repaired model by name, and what their making took."""

    weights: Mapping[str, Tensor]
    steps: int  # behind these weights
    remaining: int  # repaired balls in which the last look's attack still finds a violation
    broken: int  # other balls, and clean images that were right, in which it now does
    seconds: float  # wall time


@dataclass(frozen=True)
class Others:
    """What a repair must leave alone."""

    good: Balls  # in which the model is not known to fail
    clean: Tensor  # images float32 (n, c, h, w)
    wanted: Tensor  # their classes int64 (n,)


def repair_balls(
    trainable: Trainable,
    bad: Balls,
    others: Others,
    generator: torch.Generator,
    settings: RobustSettings = RobustSettings(),
) -> RobustRepair:
    """The weights that minimise hinge + fidelity under attack, by Adam (D. Kingma and J. Ba, ICLR 2015).

    In every step a batch of balls is attacked (the inner maximisation of A. Madry et al., ICLR 2018), each from the
    point where the last attack on it ended (H. Zheng et al., CVPR 2020). The hinge of a ball that misbehaves is
    max(0, margin + violation margin) at the point found; that of another ball the same, with its own distance from
    violation at the start where that is less: it may come no nearer. Clean images keep their scores, by `difference`.
    The trained weights go through the projections of the plan; `trainable` is left as it was. Of the weights that
    looks have seen, those with the fewest violations count, then the most faithful ones.
    Raises `ValueError` without balls to repair, for others of another radius, and without clean images.
    """
    if not len(bad) or not len(others.clean) or others.good.radius != bad.radius:
        raise ValueError(
            f"a repair needs balls, clean images and other balls of radius {bad.radius}, got {len(bad)}, "
            f"{len(others.clean)} and radius {others.good.radius}"
        )
    began = time.perf_counter()
    with training(trainable) as student:
        start = _started(student, bad, others, settings, generator)
        points = [balls.sample(torch.arange(len(balls)), generator) for balls in (bad, others.good)]
        optimizer = torch.optim.Adam(_groups(trainable, settings.rate))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
        best: tuple[tuple[int, float], RobustRepair] | None = None
        for step in range(1, settings.steps + 1):
            loss = _loss(student, bad, others, start, points, settings, generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % settings.look == 0 or step == settings.steps:
                remaining, broken, distance = _look(student, bad, others, start, settings, generator)
                if best is None or (remaining + broken, distance) <= best[0]:
                    seconds = time.perf_counter() - began
                    found = RobustRepair(current(student), step, remaining, broken, seconds)
                    best = (remaining + broken, distance), found
    assert best is not None, "there is a look at the last step"
    return replace(best[1], seconds=time.perf_counter() - began)


@dataclass(frozen=True)
class _Start:
    """What the model was like."""

    unit: Tensor  # mean depth of the violations, in scores
    slack: Tensor  # (n,) distance from violation that good balls are to keep
    scores: Tensor  # (n, classes) of the clean images


def _started(
    student: Compressed, bad: Balls, others: Others, settings: RobustSettings, generator: torch.Generator
) -> _Start:
    depth, distance = (_worst(student, balls, settings.looking, generator) for balls in (bad, others.good))
    above = depth[depth >= 0]
    unit = (above.mean() if len(above) else depth.new_zeros(())).clamp(min=LEAST)
    return _Start(unit, (-distance).clamp(min=0).clamp(max=settings.margin * unit), scores_of(student, others.clean))


def _loss(
    student: Compressed,
    bad: Balls,
    others: Others,
    start: _Start,
    points: list[Tensor],
    settings: RobustSettings,
    generator: torch.Generator,
) -> Tensor:
    """Hinge on attacked balls of both kinds in units of the violations' depth, and fidelity on clean images.

    `points` (n, c, h, w) are where attacks on all balls of each kind ended, and are moved on.
    """
    kinds = (bad, others.good)
    rows = [torch.randperm(len(some), generator=generator)[: settings.batch] for some in kinds]
    balls = _joined([some.take(chosen) for some, chosen in zip(kinds, rows, strict=True)])
    starts = torch.cat([some[chosen] for some, chosen in zip(points, rows, strict=True)])
    ends = attack(student, balls, settings.attack, generator, starts)
    for some, chosen, moved in zip(points, rows, ends.split([len(chosen) for chosen in rows]), strict=True):
        some[chosen] = moved
    clean = torch.randint(len(others.clean), (settings.batch,), generator=generator)
    scores = student(torch.cat([ends, others.clean[clean]])).float()
    leads = torch.cat([(settings.margin * start.unit).expand(len(rows[0])), start.slack[rows[1]]])
    short = (margins(scores[: len(ends)], balls.wanted) + leads).clamp(min=0) / start.unit
    far = difference(scores[len(ends) :], start.scores[clean]).mean()
    return sum(
        (part.mean() for part in short.split([len(chosen) for chosen in rows]) if len(part)), settings.fidelity * far
    )


def _look(
    student: Compressed,
    bad: Balls,
    others: Others,
    start: _Start,
    settings: RobustSettings,
    generator: torch.Generator,
) -> tuple[int, int, float]:
    """Violations left, broken, and the mean distance of the clean images' scores from what they were."""
    left, hurt = (_worst(student, balls, settings.looking, generator) >= 0 for balls in (bad, others.good))
    scores = scores_of(student, others.clean)
    wrong = violated(scores, others.wanted) & ~violated(start.scores, others.wanted)
    return int(left.sum()), int(hurt.sum() + wrong.sum()), float(difference(scores, start.scores).mean())


def _joined(balls: Sequence[Balls]) -> Balls:
    """Balls of one radius together."""
    centres, wanted = (torch.cat([getattr(some, name) for some in balls]) for name in ("centres", "wanted"))
    return Balls(centres, wanted, balls[0].radius)


def _worst(student: Compressed, balls: Balls, how: Attack, generator: torch.Generator) -> Tensor:
    """The greatest violation margin that an attack finds in each ball, (n,)."""
    if not len(balls):
        return torch.empty(0)
    return margins(scores_of(student, attack(student, balls, how, generator)), balls.wanted)


def _groups(trainable: Trainable, rate: float) -> list[dict[str, Any]]:
    """Every weight with a step in proportion to its own size; those of zeros move as the largest does."""
    weights = [weight for weight in trainable.module.parameters() if weight.requires_grad]
    sizes = [float(weight.detach().square().mean().sqrt()) for weight in weights]
    usual = max(sizes) or 1.0
    return [{"params": [weight], "lr": rate * (size or usual)} for weight, size in zip(weights, sizes, strict=True)]
