"""Model files as black boxes, by the format that their content has."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dflare.errors import InputError
from dflare.models.formats import sniff
from dflare.models.interface import Interface, Takes
from dflare.models.shown import Shown


@dataclass(frozen=True)
class Opening:
    """How a model file is opened; what a format has no use for it leaves alone."""

    threads: int | None = None  # a call; None: as many as torch uses, which a `.pt2` and TorchScript always do
    kernels: str = "default"  # how the runtime computes: the same file may answer differently with others
    allow_code: bool = False  # whether a file that is a program may be opened
    program: Path | None = None  # a file that the user named, whose code the one to open may hold too


def _exported(path: Path, how: Opening) -> Any:
    from dflare.models.exported import ExportedClassifier

    return ExportedClassifier(path)


def _torchscript(path: Path, how: Opening) -> Any:
    from dflare.models.torchscript import open_torchscript

    return open_torchscript(path, how.allow_code, how.program)


def _onnx(path: Path, how: Opening) -> Any:
    from dflare.models.onnx_runtime import open_onnx

    return open_onnx(path, how.threads, optimize=how.kernels == "default")


def _litert(path: Path, how: Opening) -> Any:
    from dflare.models.litert import open_litert

    return open_litert(path, how.threads, how.kernels)


@dataclass(frozen=True)
class Format:
    """How files of one format are opened, by which package, with which kernels, and how their names usually end."""

    open: Callable[[Path, Opening], Any]  # -> a model with `takes`
    package: str
    kernels: tuple[str, ...]
    ending: str


FORMATS: dict[str, Format] = {
    "exported": Format(_exported, "torch", ("default",), ".pt2"),
    "torchscript": Format(_torchscript, "torch", ("default",), ".pt"),
    "onnx": Format(_onnx, "onnxruntime", ("default", "unoptimized"), ".onnx"),
    "litert": Format(_litert, "ai-edge-litert", ("default", "builtin", "reference"), ".tflite"),
}
"""Format, as `sniff` names it -> how to open such files."""


def open_classifier(
    path: Path,
    interface: Interface = Interface(),  # noqa: B008 (frozen)
    *,
    threads: int | None = None,
    kernels: str = "default",
    allow_code: bool = False,
    program: Path | None = None,
) -> Shown:
    """A freshly opened model that is shown images as the interface says; the other arguments are `Opening`'s.

    Raises `InputError` for a missing or unreadable file, an unknown format, kernels that the format lacks, and a
    program without `allow_code`.
    """
    model = format_of(path, kernels).open(path, Opening(threads, kernels, allow_code, program))
    return Shown(model, interface, getattr(model, "takes", Takes()), f"the model in {path}")


def format_of(path: Path, kernels: str = "default") -> Format:
    """The format of a file by its content; raises `InputError` for an unknown one or kernels that it lacks."""
    form = FORMATS[sniff(path)]
    if kernels not in form.kernels:
        raise InputError(f"the kernels for {path} must be one of {', '.join(form.kernels)}, got {kernels!r}")
    return form


def runtime_of(path: Path, kernels: str = "default") -> str:
    """What answers for a model file: package, version, and the kernels unless they are the default ones.

    Such as "onnxruntime 1.31.1 unoptimized"; raises `InputError` like `format_of`, and for a missing package.
    """
    package = format_of(path, kernels).package
    try:
        found = version(package)
    except PackageNotFoundError as error:
        raise InputError(f"{path} needs the package {package}, which is missing") from error
    return f"{package} {found}" if kernels == "default" else f"{package} {found} {kernels}"
