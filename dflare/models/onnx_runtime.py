"""Black boxes from `.onnx` files, answered by ONNX Runtime on the CPU, or on a GPU where it is built for one."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dflare.errors import InputError, first_line
from dflare.models.grids import dequantised, quantised
from dflare.models.onnx_ends import onnx_takes, output_grid
from dflare.models.onnx_files import image_input, read_onnx

CUDA = "CUDAExecutionProvider"

_FATAL = 4
"""What ONNX Runtime writes to the terminal: nothing less, errors come as exceptions."""


def open_onnx(path: Path, threads: int | None = None, optimize: bool = True) -> "OnnxClassifier":
    """The model in an ONNX file, ready to be asked; `threads` a call, by default as many as torch uses.

    `optimize=False` runs the graph node by node as written: the same int8 file under other kernels.
    Raises `InputError` where ONNX Runtime is missing, and for a file that is no image classifier.
    """
    return OnnxClassifier(path, threads or torch.get_num_threads(), optimize)


class OnnxClassifier:
    """The model in an ONNX file: float32 values (n, ...) as it takes them -> its first output (n, ...) in float32.

    Integers are the numbers that they stand for. The runtime's session is opened at the first question: sessions can
    neither be copied nor pickled nor cross a fork, so each process and each copy opens its own.
    """

    def __init__(self, path: Path, threads: int, optimize: bool) -> None:
        _runtime(path)
        self.path, self.threads, self.optimize = path, threads, optimize
        model = read_onnx(path)
        self.input = image_input(model, path)
        self.takes, self._grid = onnx_takes(model, self.input, path)
        self._returns = output_grid(model)
        self._session: tuple[int, Any] | None = None  # process id and session
        self._device = torch.device("cpu")

    def __call__(self, values: Tensor) -> Tensor:
        batch = self.input.shape[0]
        if isinstance(batch, str):
            return self._ask(values)
        answers = [self._ask_padded(part, batch) for part in values.split(batch)]
        return torch.cat(answers) if len(answers) > 1 else answers[0]

    def to(self, device: torch.device) -> str | None:
        """Compute on a device from the next question on, with values from the CPU; None, or why it stays there."""
        has_cuda = CUDA in _runtime(self.path).get_available_providers()
        if device.type != "cpu" and not (device.type == "cuda" and has_cuda):
            return f"this ONNX Runtime has no provider for {device.type}; onnxruntime-gpu has one for cuda"
        self._device, self._session = device, None
        return None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_session": None}

    def _ask_padded(self, values: Tensor, batch: int) -> Tensor:
        missing = batch - len(values)
        if missing == 0:
            return self._ask(values)
        padding = values.new_zeros(missing, *values.shape[1:])
        return self._ask(torch.cat([values, padding]))[: len(values)]

    def _ask(self, values: Tensor) -> Tensor:
        array = quantised(values.detach().cpu(), self._grid, halves_to_even=True).contiguous().numpy()
        session = self._opened()
        name = session.get_outputs()[0].name
        try:
            answers = session.run([name], {self.input.name: array}, _quiet(self.path))[0]
        except Exception as error:
            raise InputError(f"the model in {self.path} cannot be run: {first_line(error)}") from error
        if not isinstance(answers, np.ndarray) or answers.ndim < 2 or len(answers) != len(array):
            came = answers.shape if isinstance(answers, np.ndarray) else f"a {type(answers).__name__}"
            raise InputError(
                f"the first output of the model in {self.path}, {name}, must be scores ({len(array)}, classes), "
                f"got {came}"
            )
        return dequantised(torch.from_numpy(answers), self._returns).to(values.device)

    def _opened(self) -> Any:
        if self._session is None or self._session[0] != os.getpid():
            self._session = os.getpid(), _open_session(self.path, self.threads, self.optimize, self._device)
        return self._session[1]


def _open_session(path: Path, threads: int, optimize: bool, device: torch.device) -> Any:
    runtime = _runtime(path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting must not cost a core
    options.log_severity_level = _FATAL
    options.use_deterministic_compute = device.type != "cpu"
    if not optimize:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        # without the fallback, which would try the same once more and print to the terminal
        session = runtime.InferenceSession(str(path), options, _providers(device), enable_fallback=0)
    except Exception as error:
        raise InputError(
            f"the model in {path} cannot be opened by ONNX Runtime {runtime.__version__}: {first_line(error)}"
        ) from error
    if device.type == "cuda" and CUDA not in session.get_providers():  # of which it says nothing but in its log
        raise InputError(f"ONNX Runtime cannot load what it needs to run {path} on {device}; are CUDA and cuDNN there?")
    return session


def _providers(device: torch.device) -> list[Any]:
    """What computes: the CPU, or a GPU with the CPU for the operators that it lacks.

    There without TF32, and with one way to convolve in place of the fastest of several that are tried.
    """
    if device.type == "cpu":
        return ["CPUExecutionProvider"]
    settings = {"device_id": device.index or 0, "use_tf32": 0, "cudnn_conv_algo_search": "DEFAULT"}
    return [(CUDA, settings), "CPUExecutionProvider"]


def _quiet(path: Path) -> Any:
    options = _runtime(path).RunOptions()
    options.log_severity_level = _FATAL
    return options


def _runtime(path: Path) -> Any:
    """The package onnxruntime; raises `InputError` where it is missing."""
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f'{path} needs the package onnxruntime, which is missing: pip install "dflare[onnx]"'
        ) from error
    return onnxruntime
