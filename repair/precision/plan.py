"""Which tensors of an int8 ONNX file have 16 bits, written into a copy of the file and checked."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from dflare.errors import InputError
from dflare.writing import write_atomic
from repair.onnx_models.activations import grids
from repair.onnx_models.bits import widen, with_float_output
from repair.onnx_models.difference import difference
from repair.onnx_models.node import QUANTIZERS
from repair.onnx_models.weight_bits import small_weights, widen_weights
from repair.onnx_models.weights import read_whole


@dataclass(frozen=True)
class Bits:
    """What of a file changes: nothing by default, which is false."""

    activations: tuple[str, ...] = ()  # of 16 bits
    weights: tuple[str, ...] = ()  # of 16 bits
    float_output: bool = False  # the last rounding left out

    def __bool__(self) -> bool:
        return bool(self.activations or self.weights or self.float_output)

    @property
    def key(self) -> str:
        """A short name, another one for other bits."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


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


def every_activation(model: ModelProto) -> tuple[str, ...]:
    """The activations that can be widened."""
    return tuple(name for group in grids(model) for name in group)


def affordable_weights(model: ModelProto, more_bytes: int) -> tuple[str, ...]:
    """The smallest int8 weights that can have 16 bits for `more_bytes` in all, those with grids of their own."""
    return tuple(name for name in small_weights(model, more_bytes) if _has_own_grid(model, name))


def _has_own_grid(model: ModelProto, name: str) -> bool:
    readers = [node for node in model.graph.node if node.op_type in QUANTIZERS and node.input[0] == name]
    names = {each for node in readers for each in node.input[1:] if each}
    uses = sum(each in names for node in model.graph.node for each in node.input)
    return uses == sum(each in names for node in readers for each in node.input)
