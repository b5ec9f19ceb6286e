"""The layers of a model: operators with weights, and roundings of activations."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile

from torch import Tensor

from repair.locating.tracing import Step, Trace

FOLLOWS = {
    *("Relu", "Clip", "LeakyRelu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Identity", "Dropout"),
    *("QuantizeLinear", "DequantizeLinear", "BatchNormalization", "Add", "add"),
    *("relu", "hardtanh", "leaky_relu", "hardswish", "sigmoid", "tanh", "elu", "gelu", "silu", "clamp", "dropout"),
    *("batch_norm", "_native_batch_norm_legit_no_training", "fake_quantize_per_tensor", "fake_quantize_per_channel"),
}
"""Operators that belong to the layer before them where they read nothing else than it and parameters."""


@dataclass(frozen=True)
class Layer:
    """An operator with weights and what follows it up to the next one, or one rounding of activations."""

    name: str
    kind: str  # the operator, in the words of the format
    reads: str  # the value that it computes from
    output: str  # the value that the operator computes
    end: str  # the value that other layers read: after normalisation, activation function and rounding
    parameters: tuple[str, ...] = ()  # the weight first; of a rounding none
    axis: int = 0  # of the weight that counts output channels

    @property
    def rounds(self) -> bool:
        return not self.parameters


def find_layers(trace: Trace, parameters: Mapping[str, Tensor]) -> list[Layer]:
    """Layers with weights of two or more dimensions and roundings of activations, in the order of the graph."""
    readers: dict[str, list[Step]] = {}
    for step in trace.steps:
        for value in step.reads:
            readers.setdefault(value, []).append(step)
    found = []
    for step in trace.steps:
        weights = [name for name in step.parameters if parameters[name].ndim > 1]
        if step.rounds:
            found.append(Layer(f"rounding of {step.reads[0]}", step.op, step.reads[0], step.output, step.output))
        elif weights:
            end, more = _follow(step, readers)
            names = (*weights, *(name for name in step.parameters if name not in weights), *more)
            axis = parameters[weights[0]].ndim - 1 if step.last else 0
            called = _common(trace.names.get(name, name) for name in names[: len(step.parameters)])
            found.append(Layer(called or step.name, step.op, step.reads[0], step.output, end, names, axis))
    return _unique(found)


def _follow(step: Step, readers: Mapping[str, list[Step]]) -> tuple[str, tuple[str, ...]]:
    """The value at the end of the layer that begins with a step, and the parameters on the way."""
    more: tuple[str, ...] = ()
    while len(readers.get(step.output, [])) == 1:
        follower = readers[step.output][0]
        if follower.op not in FOLLOWS or follower.reads != (step.output,):
            break
        step, more = follower, more + follower.parameters
    return step.output, more


def _common(names: Iterable[str]) -> str:
    """What the names of a weight and its bias have in common: conv1 of conv1.weight and conv1.bias."""
    letters = zip(*names, strict=False)  # up to the end of the shortest
    shared = "".join(column[0] for column in takewhile(lambda column: len(set(column)) == 1, letters)).rstrip("._")
    for ending in ("_quantized", ".weight", "_weight"):
        shared = shared.removesuffix(ending)
    return shared.rstrip("._")


def _unique(layers: list[Layer]) -> list[Layer]:
    """Layers whose names tell them apart."""
    names = [layer.name for layer in layers]
    return [
        replace(layer, name=f"{layer.name} ({layer.output})") if names.count(layer.name) > 1 else layer
        for layer in layers
    ]
