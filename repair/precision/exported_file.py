"""What mixed precision does with an int8 `.pt2` file (PT2E)."""

import math
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from dflare.errors import InputError
from dflare.models.exported import load_program
from dflare.models.interface import Interface
from repair.precision.plan import Bits
from repair.pt2_models.bits import find_eight_bit_weights, find_roundings, widen
from repair.pt2_models.grids import DEQUANTIZERS
from repair.pt2_models.writing import program_difference, save_program


def with_bits(program: ExportedProgram, bits: Bits) -> ExportedProgram:
    """A copy of the program with these bits; raises `InputError` for unknown names and a rounded output left out."""
    if bits.float_output and has_rounded_output(program):
        raise InputError("float_output leaves out the last rounding of an .onnx file, that of a .pt2 file has to stay")
    return widen(program, bits.activations, bits.weights)


def write_bits(source: Path, bits: Bits, target: Path) -> Path:
    """Write the file with these bits, atomically, and read it back; `target`.

    Raises `InputError` unless what is read is what came in with nothing but the named grids changed.
    """
    expected = with_bits(load_program(source), bits)
    save_program(expected, source, target)
    if difference := program_difference(expected, load_program(target), ()):
        raise InputError(f"{target} must be {source} with finer grids and nothing else, but {difference}")
    return target


def eight_bit_weights(program: ExportedProgram) -> list[tuple[str, int]]:
    """Name and size of every int8 weight that can be widened, the smallest first."""
    tensors = {**program.constants, **program.state_dict}
    sizes = {name: tensors[name].numel() for name in find_eight_bit_weights(program)}
    return sorted(sizes.items(), key=lambda each: (each[1], each[0]))


def has_own_grid(program: ExportedProgram, name: str) -> bool:
    """Whether nothing but this weight's dequantisers reads its scale and zero point, so that it can be widened."""
    return name in find_eight_bit_weights(program)


def has_rounded_output(program: ExportedProgram) -> bool:
    """Whether the scores are rounded."""
    output = next(node for node in program.graph.nodes if node.op == "output")
    return any(str(node.target) in DEQUANTIZERS for node in output.all_input_nodes)


def numbers(path: Path, image: Tensor, interface: Interface) -> dict[str, int]:
    """Activation -> how many numbers an image it holds, by the program's own shapes."""
    found = {}
    for each in find_roundings(load_program(path)):
        value = each.step.input.meta["val"]
        assert isinstance(value, torch.Tensor)
        found[each.name] = math.prod(int(size) for size in value.shape[1:])
    return found
