"""Compressed model files opened for repair, by format."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dflare.errors import InputError
from dflare.models.formats import sniff
from dflare.models.interface import Interface
from dflare.models.opening import FORMATS as KNOWN
from repair.outputs.recipes import OFFERED
from repair.trainable import Scales, Trainable


def _exported(path: Path, scales: Scales) -> Trainable:
    from repair.pt2_models.artifact import open_exported

    return open_exported(path, scales)


def _onnx(path: Path, scales: Scales) -> Trainable:
    from repair.onnx_models.artifact import open_onnx_artifact

    return open_onnx_artifact(path, scales)


FORMATS: dict[str, Callable[[Path, Scales], Trainable]] = {"exported": _exported, "onnx": _onnx}
"""Format, as `dflare.models.formats.sniff` names it -> how to open it for repair."""


def open_trainable(
    path: Path,
    interface: Interface = Interface(),  # noqa: B008 (frozen)
    scales: Scales = Scales.fixed,
) -> Trainable:
    """A compressed model opened for repair, shown images as the interface says, with the scales that are to be trained.

    Raises `InputError` for a missing file or a format that stays closed.
    """
    check_repairable(path)
    return replace(FORMATS[sniff(path)](path, scales), interface=interface)


def check_repairable(path: Path) -> None:
    """Raise `InputError` for a format that can be searched at most."""
    if sniff(path) not in FORMATS:
        endings = " or ".join(KNOWN[form].ending for form in FORMATS)
        raise InputError(
            f"a model to be repaired must be {endings}, got {path}; the answers of others are repaired by {OFFERED}"
        )
