"""The file formats that mixed precision can be given to, and what each has to offer for it."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor

from dflare.errors import InputError
from dflare.models.formats import sniff
from dflare.models.interface import Interface
from repair.precision.choice import Names
from repair.precision.plan import Bits


class Format(NamedTuple):
    """How files of a format are widened; what `read` returns is only handed on."""

    read: Callable[[Path], Any]
    groups: Callable[[Any], list[Names]]  # activations that share a grid
    weights: Callable[[Any], list[tuple[str, int]]]  # of 8 bits: name and size, the smallest first
    has_own_grid: Callable[[Any, str], bool]  # whether a weight can be widened alone
    has_rounded_output: Callable[[Any], bool]
    with_bits: Callable[[Any, Bits], Any]  # a copy; raises `InputError` for what cannot be
    write: Callable[[Path, Bits, Path], Path]  # source, bits, target: written, read back and compared
    numbers: Callable[[Path, Tensor, Interface], dict[str, int]]  # activation -> numbers an image


def _onnx() -> Format:
    try:
        from repair.onnx_models.activations import grids
        from repair.onnx_models.weights import read_whole
        from repair.precision import onnx_file as file
    except ImportError as missing:
        raise InputError(f'widening .onnx files needs {missing.name}: pip install "dflare[onnx]"') from missing
    return _format(read_whole, grids, file)


def _exported() -> Format:
    from dflare.models.exported import load_program
    from repair.precision import exported_file as file
    from repair.pt2_models.bits import grids

    return _format(load_program, grids, file)


def _format(read: Callable[[Path], Any], groups: Callable[[Any], list[Names]], file: ModuleType) -> Format:
    """The record of a format whose module offers the rest by the same names."""
    return Format(
        read,
        groups,
        file.eight_bit_weights,
        file.has_own_grid,
        file.has_rounded_output,
        file.with_bits,
        file.write_bits,
        file.numbers,
    )


FORMATS = {"onnx": _onnx, "exported": _exported}
"""Format, as `dflare.models.formats.sniff` names it -> how its files are widened."""


def format_of(path: Path) -> Format:
    """How this file is widened; raises `InputError` for a format that cannot be."""
    known = sniff(path)
    if known not in FORMATS:
        raise InputError(f"more bits can be given to int8 .onnx and .pt2 files, got {path}")
    return FORMATS[known]()
