"""Differentiable twins of a pair's model files, for the search that follows gradients."""

from pathlib import Path

from dflare.classifiers import Classifier
from dflare.errors import InputError
from dflare.gradient import Gradients, differentiable
from dflare.preprocess import Preprocessed
from experiments.config import Pair
from experiments.subject import Subject
from repair.opening import FORMATS, open_trainable

_NEEDS = "search.strategy=gradient needs two models that can be differentiated, but the"
_INSTEAD = "search.strategy=boundary asks for predictions only"


def gradients_of(subject: Subject, pair: Pair, model: Path | None) -> Gradients:
    """Gradients of the DIVA objective for the original and a compressed model's file, None for the one handed in.

    An int8 `.onnx` is differentiated straight through its rounding. Raises `InputError` where one of the two cannot be
    differentiated: models in memory (ImageNet), `.tflite`, int8 `.pt2`.
    """
    compressed = model or subject.files.get("compressed")
    return differentiable(
        _twin(subject.files.get("original"), pair, f"original of {subject.name}"),
        _twin(compressed, pair, f"compressed model of {subject.name}"),
    )


def _twin(path: Path | None, pair: Pair, name: str) -> Classifier:
    """A file's model as a module, shown what the file wants to see."""
    if path is None:
        raise InputError(f"{_NEEDS} {name} is opened in memory; {_INSTEAD}")
    if path.suffix not in FORMATS:
        raise InputError(f"{_NEEDS} {name} is in {path} and must be in a {' or '.join(FORMATS)} file; {_INSTEAD}")
    try:
        module = open_trainable(path).module.requires_grad_(False)
    except InputError as error:
        raise InputError(f"{_NEEDS} {name} is not one ({error}); {_INSTEAD}") from error
    return Preprocessed(module, pair.input_scale, pair.input_mean, pair.input_std)
