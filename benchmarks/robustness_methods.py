"""Repairs that the robustness benchmark compares: each repairs a case and writes the model to a file."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from repair.properties.ball_cases import FINDING, student
from repair.properties.ball_cases import METHODS as SHARED
from repair.properties.balls import Balls, attack, violated
from repair.properties.birdnn import fine_tune
from repair.properties.factors import FactorSettings
from repair.properties.networks import open_network
from repair.properties.students import scores_of
from repair.search_based.swarm import Swarm
from robustness_cases import Case
from robustness_networks import CLASSES, DENSE

TUNED = 15
"""Balls of each kind that fine-tuning sees: every candidate of its swarm is judged box by box."""

Repair = Callable[[Case, int, Path], None]
"""Repairs a case from a seed and writes the model to a file."""


def by(name: str) -> Repair:
    """A repair of `ball_cases.METHODS`."""

    def repair(case: Case, seed: int, target: Path) -> None:
        generator = torch.Generator().manual_seed(seed)
        found = SHARED[name](case.trainable, case.bad, case.others, case.sizes.steps, generator)
        case.trainable.write(found.weights, target)

    return repair


def birdnn_finetune(case: Case, seed: int, target: Path) -> None:
    """BIRDNN's fine-tuning, of fully connected networks: points of balls, and a property that has a box for each."""
    opened, generator = open_network(case.path), torch.Generator().manual_seed(seed)
    bad, good = case.bad.take(slice(0, TUNED)), case.others.good.take(slice(0, TUNED))
    balls = Balls(torch.cat([bad.centres, good.centres]), torch.cat([bad.wanted, good.wanted]), bad.radius)
    drawn = balls.sample(torch.arange(len(balls)), generator)
    points = torch.cat([balls.centres, drawn, attack(student(case.trainable), balls, FINDING, generator)])
    wrong = violated(scores_of(opened.network, points.flatten(1)), balls.wanted.repeat(3))
    kinds = points[wrong].flatten(1), points[~wrong].flatten(1)
    settings = FactorSettings(asked=100, swarm=Swarm(iterations=20))
    wanted = balls.as_property(CLASSES)
    opened.write(fine_tune(opened.network, wanted, *kinds, lambda y: y.argmax(-1), settings, generator), target)


def no_op(case: Case, seed: int, target: Path) -> None:
    """The file as it is: what attacks from other starts find."""
    shutil.copyfile(case.path, target)


METHODS: dict[str, Repair] = {
    **{name: by(name) for name in ("hinge", "plain", "birdnn-retrain")},
    "birdnn-finetune": birdnn_finetune,
    "no-op": no_op,
}
"""Name -> repair; the first is the default."""


def applies(method: str, model: str) -> bool:
    """Whether a method knows such a model."""
    return method != "birdnn-finetune" or model in DENSE
