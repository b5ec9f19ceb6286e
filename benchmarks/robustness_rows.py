"""A row of the robustness benchmark: balls that misbehave, a repair, the written file, and what it came to."""

import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dflare.classifiers import Classifier
from dflare.models.opening import open_classifier
from repair.opening import open_trainable
from repair.properties.ball_cases import JUDGING, RESTARTS, student
from repair.properties.ball_statements import attacked, ball_statements, pooled_statement, worst
from repair.properties.balls import Balls, margins, violated
from repair.properties.pac import samples_needed
from repair.properties.students import scores_of
from robustness_cases import Case, Sizes, prepare
from robustness_methods import METHODS

EPSILON, EACH, DELTA = 1e-3, 0.05, 1e-3
"""Of the statement about all repaired balls together, of those about every single one, and the doubt in both."""


def measure(model: str, radius: float, method: str, sizes: Sizes, seed: int = 0) -> dict[str, Any]:
    """The figures of a row, in plain numbers: rates in [0, 1], times in seconds; the written file is judged."""
    case = prepare(model, radius, sizes, seed)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"repaired{case.path.suffix}"
        began, worked = time.perf_counter(), time.process_time()
        METHODS[method](case, seed, target)
        took, cpu = time.perf_counter() - began, time.process_time() - worked
        case.trainable.check(target)
        opened = open_trainable(target)
        after = _judge(student(opened), open_classifier(target, threads=1), case, seed)
    before, right = _before(model, radius, sizes, seed), after.pop("right")
    return {
        "model": model, "radius": radius, "method": method, "balls": sizes.balls, "candidates": sizes.candidates,
        "clean": sizes.clean, "steps": sizes.steps, "seed": seed, "bad": len(case.bad), "unseen": len(case.unseen),
        "calm": len(case.calm), "finding_seconds": case.seconds, "seconds": took, "cpu_seconds": cpu,
        "before": {name: figure for name, figure in before.items() if name != "right"}, "after": after,
        "broken": float((before["right"] & ~right).double().mean()),
        "fixed": float((right & ~before["right"]).double().mean()),
    }  # fmt: skip


@lru_cache(maxsize=1)
def _before(model: str, radius: float, sizes: Sizes, seed: int) -> dict[str, Any]:
    """The judgement of the model as it was."""
    case = prepare(model, radius, sizes, seed)
    return _judge(student(case.trainable), case.classifier, case, seed)


def _judge(slopes: Classifier, classifier: Classifier, case: Case, seed: int) -> dict[str, Any]:
    """What a file answers: on centres, under attack (by the slopes of the same), on fresh draws, on all test images."""

    def rate(mask: Tensor) -> float:
        return float(mask.double().mean())

    def found(balls: Balls, place: int) -> float:
        generator = torch.Generator().manual_seed(1000 * place + seed)
        return rate(attacked(slopes, classifier, balls, JUDGING, RESTARTS, generator))

    def draws() -> torch.Generator:
        return torch.Generator().manual_seed(5000 + seed)

    needed = samples_needed(EACH, DELTA / len(case.bad))
    images, asked = case.tests
    right = margins(scores_of(classifier, images), asked) < 0
    return {
        "centres": rate(~violated(scores_of(classifier, case.bad.centres), case.bad.wanted)),
        "attacked": found(case.bad, 1),
        "unseen": found(case.unseen, 2),
        "calm": found(case.calm, 3),
        "pooled": pooled_statement(classifier, case.bad, samples_needed(EPSILON, DELTA), DELTA, draws()).as_dict(),
        "worst": worst(ball_statements(classifier, case.bad, needed, DELTA, draws())).as_dict(),
        "accuracy": rate(right),
        "right": right,
    }
