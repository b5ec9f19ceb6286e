"""Differentiable twins of a pair's model files, for the search that follows gradients."""

from pathlib import Path

from dflare.classifiers import Classifier
from dflare.errors import InputError
from dflare.gradient import Gradients, differentiable
from experiments.opening import Source
from experiments.subject import Subject

_NEEDS = "search.strategy=gradient needs two models that can be differentiated, but the"
_INSTEAD = "search.strategy=boundary asks for predictions only"


def gradients_of(subject: Subject, model: Path | None) -> Gradients:
    """Gradients of the DIVA objective for the original and a compressed model's file, None for the one handed in.

    An int8 `.onnx` or `.pt2` is differentiated straight through its rounding. Raises `InputError` where one of the two
    cannot be differentiated: models in memory (ImageNet, functions), TorchScript, `.tflite`.
    """
    compressed = subject.source(model) if model or "compressed" in subject.sources else None
    return differentiable(
        _twin(subject.sources.get("original"), f"original of {subject.name}"),
        _twin(compressed, f"compressed model of {subject.name}"),
    )


def _twin(source: Source | None, name: str) -> Classifier:
    """A file's model as a module, shown what the file wants to see."""
    if source is None or source.file is None:
        raise InputError(f"{_NEEDS} {name} is opened in memory; {_INSTEAD}")
    try:
        trainable = source.open_trainable()
    except InputError as error:
        raise InputError(f"{_NEEDS} {name} is not one ({error}); {_INSTEAD}") from error
    return trainable.shown(trainable.module.requires_grad_(False))
