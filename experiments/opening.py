"""Model files of a pair as the settings say they are shown images."""

from pathlib import Path

from dflare.classifiers import Classifier
from dflare.errors import InputError
from dflare.opening import format_of, open_classifier, runtime_of
from dflare.preprocess import Preprocessed, is_identity
from experiments.config import Pair


def open_shown(path: Path, pair: Pair, runtime: str = "default") -> Classifier:
    """A freshly opened model with the pair's preprocessing, where it has any, under the kernels of a runtime.

    Raises `InputError` like `open_classifier`.
    """
    classifier = open_classifier(path, kernels=_kernels(path, runtime))
    numbers = pair.input_scale, pair.input_mean, pair.input_std
    return classifier if is_identity(*numbers) else Preprocessed(classifier, *numbers)


def answered_by(path: Path, runtime: str) -> str:
    """Package, version and kernels that answer for a model file under a runtime, such as "onnxruntime 1.31.1"."""
    return runtime_of(path, _kernels(path, runtime))


def check_runtimes(runtimes: list[str], files: list[Path]) -> None:
    """Raise `InputError` for a runtime that the format of no file of the pair has; no files: a pair in memory."""
    right = list(dict.fromkeys(name for path in files for name in format_of(path).kernels)) or ["default"]
    for name in runtimes:
        if name not in right:
            what = " and ".join(dict.fromkeys(path.suffix for path in files)) or "opened in memory"
            raise InputError(f"verify.runtimes must be of {', '.join(right)} for a pair {what}, got {name!r}")


def _kernels(path: Path, runtime: str) -> str:
    """A file whose format lacks the runtime is asked as always: the two files of a pair may have two formats."""
    return runtime if runtime in format_of(path).kernels else "default"
