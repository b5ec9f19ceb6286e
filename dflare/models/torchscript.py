"""Black boxes from TorchScript files, which are programs and run only where the user says so."""

import os
import warnings
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor

from dflare.errors import InputError
from dflare.models.answers import scores_in
from dflare.models.formats import sniff
from dflare.models.interface import Takes
from dflare.models.kernels import any_kernel
from dflare.models.origins import in_run_folder


def open_torchscript(path: Path, allow_code: bool, program: Path | None = None) -> "TorchScriptModel":
    """The model in a TorchScript file, at first on the CPU; the file is opened at the first question.

    `program` is a file that the user named, of which this one may be a copy with other weights. Raises `InputError`
    without `allow_code`, for a file in a run folder unless its code is that of `program`, and for a file that is
    missing or no TorchScript.
    """
    if in_run_folder(path) and not (program is not None and not in_run_folder(program) and same_code(program, path)):
        raise InputError(
            f"the TorchScript program in {path} is code in a run folder, from where code is never run; "
            "give the file that it was copied from"
        )
    if not allow_code:
        raise InputError(f"the TorchScript program in {path} is code, which runs only with --allow-code")
    kind = sniff(path)
    if kind != "torchscript":
        raise InputError(f"expected a TorchScript program in {path}, got a model of format {kind}")
    return TorchScriptModel(path)


def same_code(one: Path, other: Path) -> bool:
    """Whether two TorchScript files hold the same code, whatever their weights; nothing of it is run.

    False as soon as one of them is no archive with a single folder and each name once, as torch writes them: two
    readers could see different code in it.
    """
    found = _code(one)
    return found is not None and found == _code(other)


def _code(path: Path) -> dict[str, bytes] | None:
    """The source code in a TorchScript file by member, without the name of the archive's folder."""
    try:
        with ZipFile(path) as archive:
            names = archive.namelist()
            if len(set(names)) != len(names) or len({name.partition("/")[0] for name in names}) != 1:
                return None
            return {n.partition("/")[2]: archive.read(n) for n in names if "/code/" in n and n.endswith(".py")}
    except (OSError, BadZipFile, zlib.error, NotImplementedError, RuntimeError):
        return None


class TorchScriptModel:
    """Values, float32 (n, ...), to the answers (n, ...) of the program in a TorchScript file, in evaluation mode.

    The file says nothing of what it takes. Programs can neither be copied nor pickled, so each process and each copy
    loads its own. Raises `InputError` when asked, for a file that cannot be loaded and for values that it refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.takes = Takes()
        self._program: tuple[int, Any] | None = None  # process id and program
        self._device = torch.device("cpu")

    def __call__(self, values: Tensor) -> Tensor:
        program = self._opened()
        try:
            with any_kernel() if self._device.type == "cpu" else nullcontext():  # programs may hold int8 kernels
                answer = program(values.to(self._device))
        except Exception as error:  # torch.jit.Error is no RuntimeError
            raise InputError(f"the TorchScript program in {self.path} cannot be run: {_reason(error)}") from error
        return scores_in(answer, len(values), f"the TorchScript program in {self.path}").to(values.device)

    def to(self, device: torch.device) -> None:
        """Compute on a device from the next question on; answers lie where the values lay."""
        self._device, self._program = device, None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_program": None}

    def _opened(self) -> Any:
        if self._program is None or self._program[0] != os.getpid():
            self._program = os.getpid(), _load(self.path, self._device)
        return self._program[1]


def _load(path: Path, device: torch.device) -> Any:
    """The program in a file on a device, in evaluation mode and without gradients of its weights."""
    try:
        # weights made in inference mode, in which questions are asked, could not be differentiated through later
        with warnings.catch_warnings(), torch.inference_mode(False):
            # torch 2.11 deprecates all of TorchScript, which it still loads
            warnings.filterwarnings("ignore", r"`torch\.jit\.load` is ")
            program = torch.jit.load(path, map_location=device).eval()
    except Exception as error:
        raise InputError(
            f"the TorchScript program in {path} cannot be loaded by torch {torch.__version__}: {_reason(error)}"
        ) from error
    for parameter in program.parameters():
        parameter.requires_grad_(False)
    return program


def _reason(error: Exception) -> str:
    """Why a program stopped: the last line of the interpreter's traceback, else the first line there is."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in reversed(lines) if line.startswith("RuntimeError: ")), lines[0])
