"""Black boxes from `.pt2` files, PyTorch's exported programs."""

import importlib
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from dflare.errors import InputError
from dflare.models.grids import Grid, image_takes, quantised
from dflare.models.interface import Takes
from dflare.models.moving import move_module
from dflare.models.program_files import checked_program

CARRIERS = {
    *("view", "reshape", "_unsafe_view", "squeeze", "unsqueeze", "flatten", "unflatten"),
    *("contiguous", "clone", "alias", "detach"),
    *("to", "_to_copy", "dropout", "quantize_per_tensor", "dequantize_per_tensor"),
}
"""Operators after which probabilities are still probabilities; dropout does nothing in a file that is only asked."""


def load_program(path: Path) -> ExportedProgram:
    """The exported program in a `.pt2` file that takes images only, in either layout.

    Raises `InputError` for any other, and, before torch sees it, for a file that could run code (`program_files`).
    """
    if not path.is_file():
        raise InputError(f"expected a model file at {path}, found none")
    try:
        content = checked_program(path)
        _register_int8_operators()
        with warnings.catch_warnings():
            # torch 2.11 says so of its own buffers
            warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
            program = torch.export.load(content)
    except InputError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"the exported program in {path} cannot be opened by torch {torch.__version__}: {reason}"
        ) from error
    image_takes(input_shape(program, path), False, Grid(torch.float32), f"the model in {path}")
    return program


def _register_int8_operators() -> None:
    """Make torch know `quantized_decomposed`, the operators in int8 programs; it does only where they are imported."""
    with suppress(ImportError):  # a torch that has given the module up knows them, or says that they are missing
        importlib.import_module("torch.ao.quantization.fx._decomposed")


def input_shape(program: ExportedProgram, path: Path) -> list[int | str]:
    """Shape of the program's one input, with a name in place of a number that is free."""
    names = program.graph_signature.user_inputs
    if len(names) != 1:
        raise InputError(f"the model in {path} must take one input, the images; it takes {len(names)}")
    node = next(node for node in program.graph.nodes if node.op == "placeholder" and node.name == names[0])
    return [size if isinstance(size, int) else str(size) for size in node.meta["val"].shape]


def batch_range(program: ExportedProgram, path: Path) -> tuple[int, int]:
    """Smallest and largest batch that the program accepts; both the same where the batch is fixed."""
    batch = input_shape(program, path)[0]
    if isinstance(batch, int):
        return batch, batch
    for symbol, bounds in program.range_constraints.items():
        if str(symbol) == batch:
            upper = re.sub(r"\D", "", str(bounds.upper))
            return max(1, int(bounds.lower)), int(upper) if upper else 2**31
    return 1, 2**31


def program_takes(program: ExportedProgram, path: Path) -> tuple[Takes, Grid]:
    """What a program takes and returns, and the type of its input; raises `InputError` if those are no images."""
    values = next(node for node in program.graph.nodes if node.name == program.graph_signature.user_inputs[0])
    dtype = values.meta["val"].dtype
    if dtype in (torch.bool, torch.complex64, torch.complex128):
        raise InputError(f"the model in {path} must take images of numbers, it takes {dtype}")
    grid = Grid(dtype)
    takes = image_takes(input_shape(program, path), False, grid, f"the model in {path}")
    scores = {"softmax": "probabilities", "log_softmax": "logits"}.get(_last_operator(program))
    return takes._replace(batches=batch_range(program, path), scores=scores), grid


def _last_operator(program: ExportedProgram) -> str:
    """Name of the operator that made the first output, seen through what only carries it, without "_"; or nothing."""
    node = next(node for node in program.graph.nodes if node.op == "output").args[0][0]
    while isinstance(node, fx.Node) and _operator(node) in CARRIERS:
        node = node.args[0]
    return _operator(node).removeprefix("_") if isinstance(node, fx.Node) else ""


def _operator(node: fx.Node) -> str:
    """Such as softmax for aten.softmax.int."""
    return str(getattr(node.target, "overloadpacket", "")).rpartition(".")[2]


class ExportedClassifier:
    """The program in a `.pt2` file: float32 values (n, ...) as it takes them -> its answers.

    Batches are split and padded to what it was exported for; integer types get the numbers themselves, rounded.
    A copy, and another process, opens the file anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        program = load_program(path)
        self.takes, self._grid = program_takes(program, path)
        self._module: nn.Module | None = program.module()
        self._device = torch.device("cpu")

    def __call__(self, values: Tensor) -> Tensor:
        came_from, values = values.device, values.to(self._device)
        if self._grid.dtype != torch.float32:
            values = quantised(values, self._grid)
        return in_parts(self._opened(), values, self.takes.batches).to(came_from)

    def to(self, device: torch.device) -> None:
        """Compute on a device from now on; answers lie where the values lay."""
        move_module(self._opened(), device)
        self._device = device

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_module": None}

    def _opened(self) -> nn.Module:
        if self._module is None:
            self._module = load_program(self.path).module()
            if self._device.type != "cpu":
                move_module(self._module, self._device)
        return self._module


def in_parts(module: nn.Module, images: Tensor, batches: tuple[int, int]) -> Tensor:
    """The module's answers to any number of images, split and padded to the smallest and largest batch it accepts."""
    smallest, largest = batches
    answers = []
    for part in images.split(largest):
        missing = smallest - len(part)
        whole = torch.cat([part, part[:1].expand(missing, *part.shape[1:])]) if missing > 0 else part
        answer = module(whole)
        if not isinstance(answer, Tensor):
            raise InputError(f"a model must return one tensor of scores, got a {type(answer).__name__}")
        answers.append(answer[: len(part)] if missing > 0 else answer)
    return torch.cat(answers) if len(answers) > 1 else answers[0]
