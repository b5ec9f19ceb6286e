"""What mixed precision does with an int8 ONNX file (QDQ)."""

from pathlib import Path

from onnx import ModelProto
from torch import Tensor

from dflare.errors import InputError
from dflare.models.interface import Interface
from dflare.writing import write_atomic
from repair.onnx_models.bits import widen, with_float_output
from repair.onnx_models.difference import difference
from repair.onnx_models.node import QUANTIZERS
from repair.onnx_models.ranges import observe
from repair.onnx_models.weight_bits import small_weights, widen_weights
from repair.onnx_models.weights import find_weights, read_whole
from repair.precision.plan import Bits


def with_bits(model: ModelProto, bits: Bits) -> ModelProto:
    """A copy of the model with these bits; each part compares its result with what came in and raises `InputError`."""
    wide = with_float_output(model) if bits.float_output else model
    wide = widen(wide, bits.activations) if bits.activations else wide
    return widen_weights(wide, bits.weights) if bits.weights else wide


def write_bits(source: Path, bits: Bits, target: Path) -> Path:
    """Write the file with these bits, atomically, and read it back; `target`.

    Raises `InputError` unless what is read is what came in with nothing but the named grids changed.
    """
    expected = with_bits(read_whole(source), bits)
    write_atomic(target, expected.SerializeToString(deterministic=True))
    if any(difference(expected, read_whole(target))):
        raise InputError(f"{target} must be {source} with finer grids and nothing else, but it reads otherwise")
    return target


def eight_bit_weights(model: ModelProto) -> list[tuple[str, int]]:
    """Name and size of every int8 weight, the smallest first."""
    sizes = {weight.name: weight.values.size for weight in find_weights(model.graph)}
    return [(name, sizes[name]) for name in small_weights(model, sum(sizes.values()))]


def has_own_grid(model: ModelProto, name: str) -> bool:
    """Whether nothing but this weight's quantisers reads its scale and zero point, so that it can be widened."""
    readers = [node for node in model.graph.node if node.op_type in QUANTIZERS and node.input[0] == name]
    names = {each for node in readers for each in node.input[1:] if each}
    uses = sum(each in names for node in model.graph.node for each in node.input)
    return uses == sum(each in names for node in readers for each in node.input)


def has_rounded_output(model: ModelProto) -> bool:
    """Whether a float output would be another one."""
    return any(difference(model, with_float_output(model)))


def numbers(path: Path, image: Tensor, interface: Interface) -> dict[str, int]:
    """Activation -> how many numbers an image it holds."""
    return {name: seen.numbers for name, seen in observe(path, image, interface).items()}
