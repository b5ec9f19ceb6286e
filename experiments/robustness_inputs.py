"""What a robustness repair is about, as objects: the model, what it is to answer, and the images of the two sides."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dflare.classifiers import Classifier, ask
from dflare.errors import InputError
from dflare.models.formats import sniff
from dflare.seeds import Seeds
from experiments.data import assign_sides, load_data
from experiments.opening import Source, is_code, source_of
from experiments.robustness_config import RobustnessConfig
from repair.opening import check_repairable
from repair.trainable import Trainable


@dataclass(frozen=True)
class Subject:
    """The model as it was handed in, and the images; the judge side is seen by no repair."""

    source: Source  # of the model that is repaired
    original: Source | None  # says what is wanted; None: the labels do
    repair: Seeds  # of the train and the validate side
    judge: Seeds
    trainable: Trainable

    @property
    def answers(self) -> Classifier | None:
        """The original, opened."""
        return None if self.original is None else self.original.open()

    def wanted(self, side: Seeds) -> "Tensor | Classifier":
        """What is to be answered on a side: its labels (n,), or what the original says."""
        if (answers := self.answers) is not None:
            return answers
        assert side.labels is not None
        return side.labels

    @property
    def sources(self) -> dict[str, Source]:
        """All models by what they are called in environment.json."""
        return {"model": self.source} | ({} if self.original is None else {"original": self.original})

    def fingerprints(self) -> dict[str, str]:
        """A hash of each side's image ids."""
        sides = {"repair": self.repair, "judge": self.judge}
        return {name: hashlib.sha256(side.ids.numpy().tobytes()).hexdigest() for name, side in sides.items()}


def open_subject(settings: RobustnessConfig) -> Subject:
    """Open model and images and see that they go together.

    Raises `InputError` for a file that cannot be opened for repair, images without labels where no original says what
    is wanted, and images that the model does not take.
    """
    source = _source(str(settings.repaired), "compressed", settings)
    original = None if settings.pair.original is None else _source(settings.pair.original, "original", settings)
    check_repairable(settings.repaired)
    size, options = source.open_shown().interface.size, settings.data
    fallback = None if size is None else (size[0], size[1])
    data = load_data(options.name, options.root, options.download, options.image_size, fallback)
    split = settings.split
    train, validate, judge = assign_sides(data, (split.train, split.validate, split.judge))
    if original is None and (train.labels is None or judge.labels is None):
        raise InputError(
            f"expected images with labels, those of {data.name} have none; give pair.original and pair.compressed, so "
            "that the original says what is wanted"
        )
    return _checked(Subject(source, original, _joined(train, validate), judge, source.open_trainable()))


def _source(where: str, which: str, settings: RobustnessConfig) -> Source:
    if is_code(where):
        raise InputError(f"a robustness repair runs no code of a model, got {where}; export it as .onnx or .pt2")
    sniff(Path(where))
    return source_of(where, which, settings.models, allow_code=False)


def _checked(subject: Subject) -> Subject:
    """The subject once its models have answered images; raises `InputError` where classes or shapes do not fit."""
    shown = subject.repair.images[:2]
    if len(subject.repair) < 2:
        raise InputError(f"expected at least 2 images to repair with, got {len(subject.repair)}")
    classes = ask(subject.source.open(), shown, "model").shape[1]
    if subject.original is not None:
        others = ask(subject.original.open(), shown, "original").shape[1]
        if others != classes:
            raise InputError(f"expected a pair of the same classes, got {others} of the original and {classes}")
        return subject
    for side in (subject.repair, subject.judge):
        if side.labels is not None and int(side.labels.max()) >= classes:
            raise InputError(
                f"expected labels below {classes}, the classes of {subject.source.where}, got {int(side.labels.max())}"
            )
    return subject


def _joined(train: Seeds, validate: Seeds) -> Seeds:
    """Two sides as one, in the order of the ids."""
    ids = torch.cat([train.ids, validate.ids])
    labels = None
    if train.labels is not None and validate.labels is not None:
        labels = torch.cat([train.labels, validate.labels])
    both = Seeds(torch.cat([train.images, validate.images]), ids, labels)
    return both.take(ids.argsort())
