"""A TorchScript program as a list of steps: what is known before an image comes is worked out, the rest is listed."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dflare.errors import InputError
from repair.fx_models.layers import Layer, quiet, unpacked
from repair.fx_models.operators import NUMBERS, OPERATORS, TYPES


@dataclass(frozen=True)
class Place:
    """A value that is known when images come: the image is 0, the result of step k is k + 1."""

    number: int


class Step(NamedTuple):
    """One operator, its arguments (values, layers and places of other steps, in lists too)."""

    operator: str
    arguments: tuple[Any, ...]


@dataclass
class Reading:
    """A program as it is read; `layers` by their path."""

    path: Path  # of the file, for errors
    steps: list[Step] = field(default_factory=list)
    layers: dict[str, Layer] = field(default_factory=dict)
    result: Place = Place(0)
    values: dict[str, Any] = field(default_factory=dict)  # name in the graph -> value, layer or place

    def refuse(self, what: str) -> InputError:
        """The sentence with which a program is left alone."""
        known = ", ".join(name.partition("::")[2] for name in OPERATORS)
        return InputError(f"the TorchScript program in {self.path} cannot be repaired: {what}; known are {known}")

    def walk(self, nodes: Iterable[Any]) -> None:
        """Read the nodes of a block in their order."""
        for node in nodes:
            kind, outputs = node.kind(), [value.debugName() for value in node.outputs()]
            if kind == "prim::If":
                self._branch(node, outputs)
                continue
            given = tuple(self.values.get(value.debugName()) for value in node.inputs())
            if kind == "prim::Constant":
                self.values[outputs[0]] = node.output().toIValue()
            elif kind == "prim::GetAttr":
                self.values[outputs[0]] = self._attribute(given[0], node.s("name"))
            elif kind == "prim::TupleUnpack" and isinstance(given[0], tuple):
                self.values |= zip(outputs, given[0], strict=True)
            elif kind in OPERATORS | NUMBERS and len(outputs) == 1:
                self.values[outputs[0]] = self._step(kind, given)
            else:
                raise self.refuse(f"its operator {kind} is none that a gradient is led through")

    def _step(self, kind: str, given: tuple[Any, ...]) -> Any:
        """What an operator makes of what is known; else the place of its result."""
        if kind == "aten::quantize_per_tensor" and given[3] not in TYPES:
            raise self.refuse("it quantises activations to another type than quint8 and qint8")
        if kind.startswith("quantized::") and "add" not in kind and not isinstance(given[1], Layer):
            raise self.refuse(f"the weights of its operator {kind} are not int8 by tensor or by output channel")
        if not _waits(given):
            return (OPERATORS | NUMBERS)[kind](*given)
        self.steps.append(Step(kind, given))
        return Place(len(self.steps))

    def _branch(self, node: Any, outputs: list[str]) -> None:
        """Take the branch that is known to be taken, else the one that does not end in an error."""
        condition, blocks = self.values.get(next(node.inputs()).debugName()), list(node.blocks())
        if isinstance(condition, Place):
            sound = [block for block in blocks if "prim::RaiseException" not in {each.kind() for each in block.nodes()}]
            if len(sound) != 1:
                raise self.refuse("it decides by an activation what to compute (prim::If)")
            block = sound[0]
        else:
            block = blocks[0 if condition else 1]
        self.walk(block.nodes())
        inner = [self.values[value.debugName()] for value in block.outputs()]
        self.values |= zip(outputs, inner, strict=True)

    def _attribute(self, holder: Any, name: str) -> Any:
        module, where = holder
        value, where = getattr(module, name), f"{where}.{name}".lstrip(".")
        if isinstance(value, torch.jit.ScriptModule):
            return value, where
        if isinstance(value, torch.ScriptObject):
            if where not in self.layers:
                layer = unpacked(where, value)
                if layer is None:
                    return None
                self.layers[where] = layer
            return self.layers[where]
        return value


def load_program(path: Path) -> torch.jit.ScriptModule:
    """The program in a file, on the CPU in evaluation mode; raises `InputError` for one that cannot be loaded."""
    try:
        with quiet(), torch.inference_mode(False):
            return torch.jit.load(path, map_location="cpu").eval()
    except Exception as error:  # torch.jit.Error is no RuntimeError
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the TorchScript program in {path} cannot be loaded by torch {torch.__version__}: {reason}"
        ) from error


def read_program(program: torch.jit.ScriptModule, path: Path) -> Reading:
    """The steps of a program from images to scores; `path` is named where it cannot be read.

    Raises `InputError`, which names the first operator that is not known, for programs of other parts and for those
    that take or return something else than one tensor.
    """
    graph, reading = program.inlined_graph, Reading(path)
    inputs, outputs = [value.debugName() for value in graph.inputs()], list(graph.outputs())
    if len(inputs) != 2 or len(outputs) != 1:
        raise reading.refuse(f"it takes {len(inputs) - 1} values and returns {len(outputs)}, expected one and one")
    reading.values = {inputs[0]: (program, ""), inputs[1]: Place(0)}
    reading.walk(graph.nodes())
    result = reading.values[outputs[0].debugName()]
    if not isinstance(result, Place) or not reading.layers:
        raise reading.refuse("it has no int8 layer between images and scores")
    reading.result, reading.values = result, {}
    return reading


def same_steps(one: Reading, other: Reading) -> bool:
    """Whether two programs compute the same apart from the numbers in weights and biases of their layers."""
    return (one.result, len(one.steps)) == (other.result, len(other.steps)) and all(
        first.operator == second.operator and _equal(first.arguments, second.arguments)
        for first, second in zip(one.steps, other.steps, strict=True)
    )


def _waits(value: Any) -> bool:
    """Whether a value, or one in a list, depends on the images or on weights that move."""
    return isinstance(value, Place | Layer) or (isinstance(value, list | tuple) and any(map(_waits, value)))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)
