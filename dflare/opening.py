"""Model files as black boxes, by format."""

from collections.abc import Callable
from pathlib import Path

from dflare.classifiers import Classifier
from dflare.errors import InputError


def _exported(path: Path) -> Classifier:
    from dflare.exported import ExportedClassifier

    return ExportedClassifier(path)


def _onnx(path: Path) -> Classifier:
    from dflare.onnx_runtime import open_onnx

    return open_onnx(path)


FORMATS: dict[str, Callable[[Path], Classifier]] = {".pt2": _exported, ".onnx": _onnx}
"""File ending -> how to open it; the opener looks into the file and refuses what it is not."""


def open_classifier(path: Path) -> Classifier:
    """A freshly opened model; raises `InputError` for a missing file, an unknown ending or an unreadable file."""
    if path.suffix not in FORMATS:
        raise InputError(f"a model file must end in {' or '.join(FORMATS)}, got {path}")
    if not path.is_file():
        raise InputError(f"expected a model file at {path}, found none")
    return FORMATS[path.suffix](path)
