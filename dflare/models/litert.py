"""Black boxes from `.tflite` files, answered by LiteRT on the CPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dflare.errors import InputError, first_line
from dflare.models.flatbuffer import check_flatbuffer
from dflare.models.grids import dequantised, quantised
from dflare.models.interface import Takes
from dflare.models.litert_files import LiteRTModel, read_litert


class Kernels(NamedTuple):
    """One way to run a file: LiteRT's name of it, and how many images are asked at once."""

    resolver: str
    part: int


KERNELS = {
    "default": Kernels("AUTO", 16),
    "builtin": Kernels("BUILTIN_WITHOUT_DEFAULT_DELEGATES", 1),
    "reference": Kernels("BUILTIN_REF", 16),
}
"""Name -> XNNPACK where it can, LiteRT's own optimised kernels, and its plain ones.

The optimised ones round differently in batches, so they are asked one by one; the others answer with the same bits in
any batch. Beyond some 16 images at once LiteRT gets no faster, and from 64 on slower: images a second on one core,
1 / 16 / 256 at once: LeNet-5 38,000 / 45,000 / 45,000, an int8 ResNet-8 12,500 / 12,600 / 8,800.
"""

MOST_OPEN = 4
"""Interpreters kept open by one classifier; images of one size need two."""


def open_litert(path: Path, threads: int | None = None, kernels: str = "default") -> "LiteRTClassifier":
    """The model in a `.tflite` file, ready to be asked; `threads` a call, by default as many as torch uses.

    `kernels` (a key of `KERNELS`) picks other kernels for the same file; answers may differ between them.
    Raises `InputError` where LiteRT is missing, and for a file that is no image classifier.
    """
    if kernels not in KERNELS:
        raise InputError(f"the kernels for {path} must be one of {', '.join(KERNELS)}, got {kernels!r}")
    return LiteRTClassifier(path, threads or torch.get_num_threads(), kernels)


class LiteRTClassifier:
    """The model in a `.tflite` file: float32 values (n, ...) as it takes them -> its answers (n, ...) in float32.

    Integers are the numbers that they stand for. Images are asked in parts of one size and the rest alone, or in the
    file's own batch where it takes no other, so that two interpreters are enough whatever batches come. They are
    opened at the first question, and again in each process and each copy, because they can neither be copied nor
    pickled nor cross a fork.
    """

    def __init__(self, path: Path, threads: int, kernels: str) -> None:
        self.path, self.threads, self.kernels = path, threads, kernels
        self.model = _read(path, threads)
        self.takes: Takes = self.model.takes
        self._takes_parts: bool | None = None  # found out at the first question
        self._opened: tuple[int, dict[tuple[int, ...], Any]] = (os.getpid(), {})  # process id, and by shape

    def __call__(self, values: Tensor) -> Tensor:
        numbers = quantised(values.detach().cpu(), self.model.input.grid).contiguous().numpy()
        answers = torch.from_numpy(self._ask(numbers))
        return dequantised(answers, self.model.output.grid).to(values.device)

    def to(self, device: torch.device) -> str | None:
        """Why it stays where it is, on the CPU; None where that is asked for."""
        return None if device.type == "cpu" else "LiteRT computes .tflite files on the CPU"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": (0, {})}

    def _ask(self, values: np.ndarray) -> np.ndarray:
        """Answers to any number of inputs, in the output's own type."""
        if self._takes_parts is None:
            self._takes_parts = self._try_part(values)
        own = self.model.batch
        part, smallest = (KERNELS[self.kernels].part, 1) if self._takes_parts else (own, own)
        answers: list[np.ndarray] = []
        row = 0
        while row < len(values) or not answers:
            size = part if len(values) - row >= part else smallest
            some = values[row : row + size]
            answers.append(self._run(_filled_up(some, size))[: len(some)])
            row += size
        return np.concatenate(answers) if len(answers) > 1 else answers[0]

    def _try_part(self, values: np.ndarray) -> bool:
        """Whether the file answers a part at once; some are written for one image and make one row of any number."""
        part = KERNELS[self.kernels].part
        try:
            return len(self._run(_filled_up(values[:0], part))) == part
        except InputError:
            return False

    def _run(self, values: np.ndarray) -> np.ndarray:
        interpreter = self._open(values.shape)
        try:
            interpreter.set_tensor(self.model.input.tensor, values)
            interpreter.invoke()
            return interpreter.get_tensor(self.model.output.tensor)
        except (ValueError, RuntimeError) as error:
            raise InputError(f"the model in {self.path} cannot be run by LiteRT: {first_line(error)}") from error

    def _open(self, shape: tuple[int, ...]) -> Any:
        """The interpreter of this process for inputs of a shape."""
        if self._opened[0] != os.getpid():
            self._opened = os.getpid(), {}
        opened = self._opened[1]
        if shape not in opened:
            while len(opened) >= MOST_OPEN:
                opened.pop(next(iter(opened)))
            opened[shape] = _new_interpreter(self.path, self.threads, self.kernels, (self.model.input.tensor, shape))
        return opened[shape]


def _read(path: Path, threads: int) -> LiteRTModel:
    """What the file takes and returns, told by kernels without delegates, which replace operators by themselves."""
    _runtime(path)
    if not path.is_file():
        raise InputError(f"expected a model file at {path}, found none")
    check_flatbuffer(path)
    try:
        return read_litert(_new_interpreter(path, threads, "builtin"), path)
    except (ValueError, RuntimeError) as error:  # names in a damaged file may be no text
        raise InputError(f"the model in {path} cannot be read by LiteRT: {first_line(error)}") from error


def _filled_up(values: np.ndarray, size: int) -> np.ndarray:
    """The values with rows of zeros behind them, (size, ...)."""
    missing = size - len(values)
    return np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)]) if missing else values


def _new_interpreter(path: Path, threads: int, kernels: str, resized: tuple[int, tuple[int, ...]] | None = None) -> Any:
    """A fresh interpreter, made ready for an input (its index) of a shape where that is given."""
    module = _runtime(path)
    try:
        with _silence():
            resolver = module.OpResolverType[KERNELS[kernels].resolver]
            interpreter = module.Interpreter(str(path), num_threads=threads, experimental_op_resolver_type=resolver)
            if resized is not None:
                interpreter.resize_tensor_input(*resized)
                interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise InputError(f"the model in {path} cannot be opened by LiteRT: {first_line(error)}") from error
    return interpreter


def _runtime(path: Path) -> Any:
    """The module of LiteRT's interpreter; raises `InputError` where it is missing."""
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise InputError(
            f'{path} needs the package ai-edge-litert, which is missing: pip install "dflare[litert]"'
        ) from error
    return interpreter


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing on the process's stderr: LiteRT announces its delegates there, and no setting keeps it from that."""
    try:
        saved = os.dup(2)
    except OSError:  # the process has none
        yield
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nothing)
