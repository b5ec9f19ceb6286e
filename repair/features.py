"""What the original sees in images: the numbers that its last layer reads, or its answers where it stays closed."""

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from dflare.classifiers import to_unit
from dflare.errors import InputError
from repair.data import Examples
from repair.last_layer import last_layer
from repair.locating.tracing import Asked, Step
from repair.locating.watched import Watched, by_channel
from repair.trainable import Trainable

Features = Callable[[], Tensor]
"""Features (n, f) of some images, computed when they are asked for."""

FLOOR = 1e-6
"""Probability below which a class is taken for this: how impossible a class is says nothing of the image."""


def features(original: Trainable | None, examples: Examples) -> Tensor:
    """The original's penultimate layer on the examples, (n, f) float32; without it log-probabilities (n, classes)."""
    if original is not None:
        with suppress(InputError):
            return penultimate(original, examples)
    return log_probabilities(examples.targets)


def log_probabilities(probabilities: Tensor) -> Tensor:
    """Logarithms of probabilities (n, classes), none below that of `FLOOR`."""
    return probabilities.clamp(min=FLOOR).log()


def penultimate(original: Trainable, examples: Examples) -> Tensor:
    """What the original's last matrix or kernel reads when it is shown the examples, (n, f) float32.

    Of a feature map the mean of each channel. Raises `InputError` where the graph does not tell.
    """
    if not len(examples):
        return torch.zeros(0, 0)
    watched = Watched(original)
    step, weight = _last(watched, examples.images)
    value = step.reads[0]
    least, most = watched.trace.batches
    shown = to_unit(examples.images[:1]).expand(min(max(3, least), most), *examples.images.shape[1:])
    asked = Asked(keep=[value])
    with torch.no_grad():
        watched.scores(shown, asked)
    if value not in asked.kept or len(asked.kept[value]) != len(shown):
        raise InputError("what the last layer reads must be one row for each image, got another shape")
    kept = watched.outcome(examples, Asked(keep=[value])).kept[value].float()
    return by_channel(kept) if weight.ndim > 2 else kept.flatten(1)


def _last(watched: Watched, images: Tensor) -> tuple[Step, Tensor]:
    """The step of the last layer that reads a matrix or kernel, and that weight."""
    names = set(last_layer(watched.trainable, images))
    for step in watched.trace.steps:
        weights = [watched.parameters[name] for name in step.parameters if name in names]
        big = [weight for weight in weights if weight.ndim > 1]
        if big and step.reads:
            return step, big[0]
    raise InputError("expected a step of the model that reads its last layer's weights, found none")
