"""Black boxes from `.onnx` files, answered by ONNX Runtime on the CPU."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dflare.errors import InputError
from dflare.exported import check_image_shape
from dflare.onnx_files import image_input, read_onnx

FLOATS = {1: torch.float32, 10: torch.float16, 11: torch.float64}
"""ONNX element types in which a model may take its images."""


def open_onnx(path: Path, threads: int | None = None, optimize: bool = True) -> "OnnxClassifier":
    """The model in an ONNX file as a classifier; `threads` a call, by default as many as torch uses.

    `optimize=False` runs the graph node by node as written: the same int8 file under other kernels.
    Raises `InputError` where ONNX Runtime is missing, and for a file that is no image classifier.
    """
    return OnnxClassifier(path, threads or torch.get_num_threads(), optimize)


class OnnxClassifier:
    """The first output of the model in an ONNX file, whose runtime session is opened at the first question.

    Sessions can neither be copied nor pickled nor cross a fork, so each process and each copy opens its own.
    """

    def __init__(self, path: Path, threads: int, optimize: bool) -> None:
        _runtime(path)
        self.path, self.threads, self.optimize = path, threads, optimize
        self.input = image_input(read_onnx(path), path)
        if self.input.element not in FLOATS:
            raise InputError(f"the model in {path} must take floating-point images, it takes integers or others")
        self._session: tuple[int, Any] | None = None  # process id and session

    def __call__(self, images: Tensor) -> Tensor:
        check_image_shape(self.path, self.input.shape[1:], images)
        batch = self.input.shape[0]
        if isinstance(batch, str):
            return self._ask(images)
        return torch.cat([self._ask_padded(part, batch) for part in images.split(batch)])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_session": None}

    def _ask_padded(self, images: Tensor, batch: int) -> Tensor:
        missing = batch - len(images)
        padding = images.new_zeros(missing, *images.shape[1:])
        return self._ask(torch.cat([images, padding]))[: len(images)]

    def _ask(self, images: Tensor) -> Tensor:
        array = images.detach().to("cpu", FLOATS[self.input.element]).contiguous().numpy()
        session = self._opened()
        try:
            scores = session.run([session.get_outputs()[0].name], {self.input.name: array})[0]
        except Exception as error:
            raise InputError(f"the model in {self.path} cannot be run: {_first_line(error)}") from error
        return torch.from_numpy(scores).to(images.device, torch.float32)

    def _opened(self) -> Any:
        if self._session is None or self._session[0] != os.getpid():
            self._session = os.getpid(), _open_session(self.path, self.threads, self.optimize)
        return self._session[1]


def _open_session(path: Path, threads: int, optimize: bool) -> Any:
    runtime = _runtime(path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting must not cost a core
    options.log_severity_level = 3  # errors come as exceptions; warnings are about graph optimisation
    if not optimize:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InputError(
            f"the model in {path} cannot be opened by ONNX Runtime {runtime.__version__}: {_first_line(error)}"
        ) from error


def _runtime(path: Path) -> Any:
    """The package onnxruntime; raises `InputError` where it is missing."""
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f'{path} needs the package onnxruntime, which is missing: pip install "dflare[onnx]"'
        ) from error
    return onnxruntime


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
