"""Cases of the robustness benchmark: a model, the balls in which it misbehaves, and those in which it does not."""

import tempfile
import time
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from dflare.classifiers import Classifier
from dflare.errors import InputError
from dflare.models.opening import open_classifier
from experiments.data import load_data
from pairs import bench_folder
from repair.opening import open_trainable
from repair.properties.ball_cases import look, student
from repair.properties.balls import Balls
from repair.properties.robustness import Others
from repair.properties.students import scores_of
from repair.trainable import Trainable
from robustness_networks import DENSE, dense_file

FORMS = ("original", "int8", "pruned", "distilled")

FILES = {
    f"{name}-{form}": (f"mnist_{name}/{form}.onnx", None if form == "original" else f"mnist_{name}/original.onnx")
    for name in ("lenet-5", "simplecnn")
    for form in FORMS
}
"""Name -> the file below $DFLARE_BENCH/models, and that of the original of a compressed one."""

MODELS = (*DENSE, *FILES)

NETWORKS = Path(tempfile.gettempdir()) / "dflare-robustness-networks"
"""Where dense networks are kept once they are trained."""


@dataclass(frozen=True)
class Sizes:
    """How much a row looks at."""

    balls: int = 50  # to repair, and unseen ones to judge, at most
    candidates: int = 1000  # images of each side among which they are found
    clean: int = 2000  # training images whose scores are kept
    steps: int = 150  # of the hinge repair


@dataclass(frozen=True)
class Case:
    """A model and its balls; bad ones misbehave, good ones do not as far as is known."""

    path: Path
    trainable: Trainable
    classifier: Classifier
    bad: Balls
    others: Others  # of the training images, as `bad`
    unseen: Balls  # bad ones around test images
    calm: Balls  # good ones around test images
    tests: tuple[Tensor, Tensor]  # all test images in [0, 1], and what is to be answered
    sizes: Sizes
    seconds: float  # of finding them


@lru_cache(maxsize=1)  # the methods of a case follow each other
def prepare(model: str, radius: float, sizes: Sizes, seed: int) -> Case:
    """A model, opened, with its balls; raises `InputError` where it is missing or nothing misbehaves."""
    began = time.perf_counter()
    (train, labels), (test, truth) = _images()
    path, original = paths(model, train, labels)
    trainable, classifier = open_trainable(path), open_classifier(path, threads=1)
    answers = None if original is None else open_classifier(original, threads=1)
    generator = torch.Generator().manual_seed(seed)
    looked = [
        look(student(trainable), classifier, images, answers or classes, (sizes.candidates, clean), radius, generator)
        for images, classes, clean in ((train, labels, sizes.clean), (test, truth, 0))
    ]
    (bad, _), (unseen, calm) = (one.balls(radius) for one in looked)
    bad, unseen = (some.take(slice(0, sizes.balls)) for some in (bad, unseen))
    if not len(bad) or not len(unseen):
        raise InputError(
            f"expected balls of radius {radius} in which {model} misbehaves, found none; take a larger one"
        )
    others = looked[0].others(radius)
    everything = test.float() / 255
    asked = truth if answers is None else scores_of(answers, everything).argmax(-1)
    calm = calm.take(slice(0, 4 * sizes.balls))
    took = time.perf_counter() - began
    return Case(path, trainable, classifier, bad, others, unseen, calm, (everything, asked), sizes, took)


def paths(model: str, images: Tensor, labels: Tensor) -> tuple[Path, Path | None]:
    """The file of a model and, of a compressed one, that of its original; raises `InputError` where one is missing."""
    if model in DENSE:
        return dense_file(model, images, labels, NETWORKS), None
    folder = bench_folder() / "models"
    path, original = (None if name is None else folder / name for name in FILES[model])
    for one in (path, original):
        if one is not None and not one.is_file():
            raise InputError(f"expected {one}, found none; set DFLARE_BENCH to the folder of the benchmark data")
    assert path is not None
    return path, original


@cache
def _images() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """MNIST's training and test images, uint8, with their labels."""
    data = load_data("mnist", str(bench_folder() / "data"))
    assert data.train_labels is not None
    assert data.test_images is not None
    assert data.test_labels is not None
    return (data.train_images, data.train_labels), (data.test_images, data.test_labels)
