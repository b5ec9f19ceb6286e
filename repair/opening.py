"""Compressed model files opened for repair, by format."""

from collections.abc import Callable
from pathlib import Path

from dflare.errors import InputError
from repair.trainable import Trainable


def _exported(path: Path) -> Trainable:
    from repair.exported_artifact import open_exported

    return open_exported(path)


def _onnx(path: Path) -> Trainable:
    from repair.onnx_artifact import open_onnx_artifact

    return open_onnx_artifact(path)


FORMATS: dict[str, Callable[[Path], Trainable]] = {".pt2": _exported, ".onnx": _onnx}
"""File ending -> how to open it for repair."""


def open_trainable(path: Path) -> Trainable:
    """A compressed model opened for repair; raises `InputError` for a missing file or a format that stays closed."""
    check_repairable(path)
    if not path.is_file():
        raise InputError(f"expected a model file at {path}, found none")
    return FORMATS[path.suffix](path)


def check_repairable(path: Path) -> None:
    """Raise `InputError` for a format that can be searched at most."""
    if path.suffix not in FORMATS:
        raise InputError(
            f"a model to be repaired must end in {' or '.join(FORMATS)}, got {path}; other formats can only be searched"
        )
