"""Robustness repair as one piece of work: which balls misbehave, a repair by name, and what a file answers then."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dflare.classifiers import Classifier, to_unit
from repair.compression import Compressed
from repair.properties.ball_imitation import retrain_balls
from repair.properties.ball_statements import attacked
from repair.properties.balls import Attack, Balls
from repair.properties.robustness import Others, RobustRepair, RobustSettings, repair_balls
from repair.properties.students import scores_of
from repair.trainable import Trainable

FINDING = Attack(steps=10)
"""Who misbehaves: a centre, or what this attack finds from one uniform start."""

JUDGING, RESTARTS = Attack(steps=20), 2
"""The attack that judges, from fresh starts."""

Repair = Callable[[Trainable, Balls, Others, int, torch.Generator], RobustRepair]
"""(model, balls to repair, what is to be left alone, steps, random numbers) -> projected weights."""


@dataclass(frozen=True)
class Looked:
    """Images that were looked at, and in which of their balls a model misbehaves."""

    images: Tensor  # (n, c, h, w) uint8; the first ones are centres of balls, the others are clean images
    wanted: Tensor  # (n,) int64, what is to be answered
    bad: Tensor  # (candidates,) bool: an image or an attack violates it

    def balls(self, radius: float) -> tuple[Balls, Balls]:
        """Those that misbehave, and those that do not as far as is known."""
        count = len(self.bad)
        balls = Balls(to_unit(self.images[:count]), self.wanted[:count], radius)
        return balls.take(self.bad), balls.take(~self.bad)

    def others(self, radius: float) -> Others:
        """What a repair of the balls that misbehave must leave alone."""
        count = len(self.bad)
        return Others(self.balls(radius)[1], to_unit(self.images[count:]), self.wanted[count:])


def look(
    slopes: Classifier,
    asked: Classifier,
    images: Tensor,
    wanted: Tensor | Classifier,
    sizes: tuple[int, int],
    radius: float,
    generator: torch.Generator,
) -> Looked:
    """Draw images of uint8 (n, c, h, w) and attack the balls around them by `FINDING`.

    `sizes` are how many are centres of balls and how many are kept clean, at most; `wanted` are labels (n,) or a model
    whose answers are wanted. Gradients come from `slopes`, violations are those of `asked`, the file.
    """
    candidates, clean = sizes
    rows = torch.randperm(len(images), generator=generator)[: candidates + clean]
    shown = to_unit(images[rows])
    right = wanted[rows] if isinstance(wanted, Tensor) else scores_of(wanted, shown).argmax(-1)
    balls = Balls(shown[:candidates], right[:candidates], radius)
    return Looked(images[rows], right, attacked(slopes, asked, balls, FINDING, 1, generator))


def student(trainable: Trainable) -> Classifier:
    """The classifier that an opened model is."""
    return Compressed(trainable.module, trainable.plan, trainable.shown)


def hinge(trainable: Trainable, bad: Balls, others: Others, steps: int, generator: torch.Generator) -> RobustRepair:
    """The default: hinge + fidelity."""
    return repair_balls(trainable, bad, others, generator, RobustSettings(steps=steps))


def plain(trainable: Trainable, bad: Balls, others: Others, steps: int, generator: torch.Generator) -> RobustRepair:
    """The hinge on misbehaving balls alone: nothing holds the model where it was."""
    nothing = Others(others.good.take(slice(0, 0)), bad.centres, bad.wanted)
    return repair_balls(trainable, bad, nothing, generator, RobustSettings(steps=steps, fidelity=0.0))


def birdnn_retrain(
    trainable: Trainable, bad: Balls, others: Others, steps: int, generator: torch.Generator
) -> RobustRepair:
    """BIRDNN's retraining, which counts epochs of its own in place of steps."""
    return retrain_balls(trainable, bad, others, generator)


METHODS: dict[str, Repair] = {"hinge": hinge, "birdnn-retrain": birdnn_retrain, "plain": plain}
"""Name -> repair of any model that opens; the first is the default."""
