"""Black boxes from `.pt2` files, PyTorch's exported programs."""

import importlib
import re
import warnings
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from dflare.errors import InputError


def load_program(path: Path) -> ExportedProgram:
    """The exported program in a `.pt2` file that takes images (n, c, h, w) only; raises `InputError` for any other."""
    if not path.is_file():
        raise InputError(f"expected a model file at {path}, found none")
    try:
        with ZipFile(path) as archive:
            names = archive.namelist()
    except BadZipFile as error:
        raise InputError(
            f"expected an exported PyTorch program (.pt2) in {path}, but the file is no zip archive"
        ) from error
    if not any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        raise InputError(f"expected an exported PyTorch program (.pt2) in {path}, but the archive holds none")
    try:
        _register_int8_operators()
        with warnings.catch_warnings():
            # torch 2.11 says so of its own buffers
            warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
            program = torch.export.load(path)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"the exported program in {path} cannot be opened by torch {torch.__version__}: {reason}"
        ) from error
    shape = input_shape(program, path)
    if len(shape) != 4:
        raise InputError(f"the model in {path} must take images (n, channels, height, width), it takes {tuple(shape)}")
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


class ExportedClassifier:
    """The program in a `.pt2` file as a classifier; batches are split and padded to what it was exported for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        program = load_program(path)
        self.shape = input_shape(program, path)[1:]
        self.smallest, self.largest = batch_range(program, path)
        self.module: nn.Module = program.module()

    def __call__(self, images: Tensor) -> Tensor:
        check_image_shape(self.path, self.shape, images)
        return in_parts(self.module, images, (self.smallest, self.largest))


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
        answers.append(answer[: len(part)])
    return torch.cat(answers)


def check_image_shape(path: Path, shape: list[int | str], images: Tensor) -> None:
    """Raise `InputError` unless the images have the model's channels, height and width, where those are fixed."""
    came = list(images.shape[1:])
    if any(isinstance(want, int) and want != have for want, have in zip(shape, came, strict=True)):
        want_words = " x ".join(str(size) for size in shape)
        raise InputError(
            f"the model in {path} takes images of {want_words} (channels x height x width), "
            f"got {' x '.join(map(str, came))}"
        )
