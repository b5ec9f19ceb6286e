"""Compressed model files opened for repair, by format."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dflare.errors import InputError
from dflare.models.formats import sniff
from dflare.models.interface import Interface
from dflare.models.opening import FORMATS as KNOWN
from dflare.models.opening import Opening
from repair.outputs.recipes import OFFERED
from repair.trainable import Scales, Trainable


def _exported(path: Path, scales: Scales, how: Opening) -> Trainable:
    from repair.pt2_models.artifact import open_exported

    return open_exported(path, scales)


def _onnx(path: Path, scales: Scales, how: Opening) -> Trainable:
    from repair.onnx_models.artifact import open_onnx_artifact

    return open_onnx_artifact(path, scales)


def _scripted(path: Path, scales: Scales, how: Opening) -> Trainable:
    from repair.fx_models.artifact import open_scripted

    return open_scripted(path, how.allow_code, how.program)


FORMATS: dict[str, Callable[[Path, Scales, Opening], Trainable]] = {
    "exported": _exported,
    "onnx": _onnx,
    "torchscript": _scripted,
}
"""Format, as `dflare.models.formats.sniff` names it -> how to open it for repair."""


def open_trainable(
    path: Path,
    interface: Interface = Interface(),  # noqa: B008 (frozen)
    scales: Scales = Scales.fixed,
    how: Opening = Opening(),  # noqa: B008 (frozen)
) -> Trainable:
    """A compressed model opened for repair, shown images as the interface says, with the scales that are to be trained.

    Of `how` only the leave to open programs matters. Raises `InputError` for a missing file, a format that stays
    closed, and a program without that leave.
    """
    check_repairable(path)
    return replace(FORMATS[sniff(path)](path, scales, how), interface=interface)


def check_repairable(path: Path) -> None:
    """Raise `InputError` for a format that can be searched at most."""
    if sniff(path) not in FORMATS:
        *first, last = (KNOWN[form].ending for form in FORMATS)
        raise InputError(
            f"a model to be repaired must be {', '.join(first)} or {last}, got {path}; "
            f"the answers of others are repaired by {OFFERED}"
        )
