"""Model files as black boxes, by format."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dflare.classifiers import Classifier
from dflare.errors import InputError


def _exported(path: Path, threads: int | None, kernels: str) -> Classifier:
    from dflare.exported import ExportedClassifier

    return ExportedClassifier(path)


def _onnx(path: Path, threads: int | None, kernels: str) -> Classifier:
    from dflare.onnx_runtime import open_onnx

    return open_onnx(path, threads, optimize=kernels == "default")


def _litert(path: Path, threads: int | None, kernels: str) -> Classifier:
    from dflare.litert import open_litert

    return open_litert(path, threads, kernels)


@dataclass(frozen=True)
class Format:
    """How files of one ending are opened, by which package, and with which kernels that package can run them."""

    open: Callable[[Path, int | None, str], Classifier]
    package: str
    kernels: tuple[str, ...]


FORMATS: dict[str, Format] = {
    ".pt2": Format(_exported, "torch", ("default",)),
    ".onnx": Format(_onnx, "onnxruntime", ("default", "unoptimized")),
    ".tflite": Format(_litert, "ai-edge-litert", ("default", "builtin", "reference")),
}
"""File ending -> format; the opener looks into the file and refuses what it is not."""


def open_classifier(path: Path, *, threads: int | None = None, kernels: str = "default") -> Classifier:
    """A freshly opened model; `threads` a call, by default as many as torch uses (which a `.pt2` always does).

    `kernels` says how the runtime computes: the same file may answer differently with others.
    Raises `InputError` for a missing file, an unknown ending, kernels that the format lacks or an unreadable file.
    """
    form = format_of(path, kernels)
    if not path.is_file():
        raise InputError(f"expected a model file at {path}, found none")
    return form.open(path, threads, kernels)


def format_of(path: Path, kernels: str = "default") -> Format:
    """The format of a file by its ending; raises `InputError` for an unknown one or kernels that it lacks."""
    if path.suffix not in FORMATS:
        *others, last = FORMATS
        raise InputError(f"a model file must end in {', '.join(others)} or {last}, got {path}")
    form = FORMATS[path.suffix]
    if kernels not in form.kernels:
        raise InputError(f"the kernels for {path} must be one of {', '.join(form.kernels)}, got {kernels!r}")
    return form


def runtime_of(path: Path, kernels: str = "default") -> str:
    """What answers for a model file: package, version, and the kernels unless they are the default ones.

    Such as "onnxruntime 1.31.1 unoptimized"; raises `InputError` like `open_classifier`, but looks at no file.
    """
    package = format_of(path, kernels).package
    try:
        found = version(package)
    except PackageNotFoundError as error:
        raise InputError(f"{path} needs the package {package}, which is missing") from error
    return f"{package} {found}" if kernels == "default" else f"{package} {found} {kernels}"
