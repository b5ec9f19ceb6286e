"""What fresh samples and attacks say about a classifier on balls of images."""

from collections.abc import Sequence

import torch

from dflare.classifiers import Classifier
from repair.properties.balls import BATCH, Attack, Balls, attack, violated
from repair.properties.pac import Statement, violation_bound


def pooled_statement(
    classifier: Classifier, balls: Balls, samples: int, delta: float, generator: torch.Generator
) -> Statement:
    """The statement about the mean violation rate of all balls, from that many fresh draws.

    A draw takes a ball, all of them alike, and then an image uniform in it, so that draws are independent with one
    rate. Use a generator of its own seed; the same seed for two classifiers asks both the same.
    """
    violations = 0
    for start in range(0, samples, BATCH):
        rows = torch.randint(len(balls), (min(BATCH, samples - start),), generator=generator)
        violations += _violations(classifier, balls, rows, generator)
    return Statement(samples, violations, delta, violation_bound(violations, samples, delta))


def ball_statements(
    classifier: Classifier, balls: Balls, samples: int, delta: float, generator: torch.Generator
) -> tuple[Statement, ...]:
    """A statement about every single ball, in order, from `samples` uniform draws in each.

    All hold together with confidence 1 - delta: each has delta / (number of balls), the union bound.
    """
    found, share = [], delta / len(balls)
    for ball in range(len(balls)):
        violations = 0
        for start in range(0, samples, BATCH):
            rows = torch.full((min(BATCH, samples - start),), ball)
            violations += _violations(classifier, balls, rows, generator)
        found.append(Statement(samples, violations, share, violation_bound(violations, samples, share)))
    return tuple(found)


def worst(statements: Sequence[Statement]) -> Statement:
    """The statement with the greatest bound."""
    return max(statements, key=lambda one: one.bound)


def attacked(
    slopes: Classifier, asked: Classifier, balls: Balls, how: Attack, restarts: int, generator: torch.Generator
) -> torch.Tensor:
    """In which balls an attack from fresh uniform starts, or the centre, finds a violation, (n,) bool.

    Gradients come from `slopes`, such as a model opened for repair; what counts is what `asked`, the written file,
    says of the points found: a violation is always re-executed.
    """
    found = _asked(asked, balls, balls.centres)
    for _ in range(restarts):
        open_rows = torch.nonzero(~found).flatten()
        some = balls.take(open_rows)
        found[open_rows] = _asked(asked, some, attack(slopes, some, how, generator))
    return found


def _asked(asked: Classifier, balls: Balls, images: torch.Tensor) -> torch.Tensor:
    if not len(balls):
        return torch.zeros(0, dtype=torch.bool)
    with torch.no_grad():
        scores = torch.cat([asked(part) for part in images.split(BATCH)])
    return violated(scores, balls.wanted)


def _violations(classifier: Classifier, balls: Balls, rows: torch.Tensor, generator: torch.Generator) -> int:
    with torch.no_grad():
        return int(violated(classifier(balls.sample(rows, generator)), balls.wanted[rows]).sum())
