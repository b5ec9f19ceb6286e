"""Models opened for repair, trained for a while and then as they were."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from dflare.classifiers import Classifier
from repair.compression import Compressed
from repair.properties.balls import BATCH
from repair.trainable import Trainable


@contextmanager
def training(trainable: Trainable) -> Iterator[Compressed]:
    """The student of a model opened for repair, whose latent weights are put back as they were at the end."""
    latent = {name: weight.detach().clone() for name, weight in trainable.module.named_parameters()}
    try:
        yield Compressed(trainable.module, trainable.plan, trainable.shown)
    finally:
        with torch.no_grad():
            for name, weight in trainable.module.named_parameters():
                weight.copy_(latent[name])


def current(student: Compressed) -> dict[str, Tensor]:
    """A copy of the projected weights by name, as `Trainable.write` takes them."""
    with torch.no_grad():
        return {name: weight.detach().clone() for name, weight in student.weights().items()}


def scores_of(classifier: Classifier, images: Tensor) -> Tensor:
    """Scores (n, classes) of images, asked in batches and without gradients."""
    with torch.no_grad():
        return torch.cat([classifier(part).float() for part in images.split(BATCH)])
