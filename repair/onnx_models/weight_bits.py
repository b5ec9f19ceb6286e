"""More bits for some of the weights of an int8 ONNX model: the same numbers on a finer grid, which training can use."""

from collections.abc import Collection

import numpy as np
from onnx import ModelProto, numpy_helper

from dflare.errors import InputError
from repair.onnx_models.difference import difference
from repair.onnx_models.node import QUANTIZERS
from repair.onnx_models.opset import raise_opset
from repair.onnx_models.weights import Weight, find_weights

FINER = 256
"""Steps of the new grid in one of the old: a power of two, so that no number changes by a single bit."""


def widen_weights(model: ModelProto, names: Collection[str]) -> ModelProto:
    """A copy of the model in which these int8 weights have 16 bits: scale s / 256, integers 256 q, zero point 256 z.

    It computes what it did: only a training that follows makes use of the finer grid, at one byte a weight. Raises
    `InputError` for names of no such weight, and where something else uses its scale or zero point.
    """
    copy = raise_opset(model)
    _check_names(copy, names)
    stored = {tensor.name: tensor for tensor in copy.graph.initializer}
    readers = [node for node in copy.graph.node if node.op_type in QUANTIZERS and node.input[0] in set(names)]
    grids = {name for node in readers for name in node.input[1:] if name}
    others = [node for node in copy.graph.node if node not in readers]
    shared = sorted(grids & {name for node in others for name in node.input})
    if shared:
        raise InputError(f"weights to be widened must have grids of their own, {shared[0]!r} is used elsewhere as well")
    for name in {*names, *(name for node in readers for name in node.input[2:] if name)}:
        values = numpy_helper.to_array(stored[name]).astype(np.int16) * FINER
        stored[name].CopyFrom(numpy_helper.from_array(values, name))
    for name in {node.input[1] for node in readers}:
        values = numpy_helper.to_array(stored[name])
        stored[name].CopyFrom(numpy_helper.from_array(values / values.dtype.type(FINER), name))
    _check_difference(model, copy, {*names, *grids})
    return copy


def small_weights(model: ModelProto, more_bytes: int) -> list[str]:
    """The int8 weights that can have 16 bits for `more_bytes` in all, the smallest first: most layers for the bytes."""
    chosen = []
    for weight in sorted(_eight_bits(model), key=lambda weight: (weight.values.size, weight.name)):
        more_bytes -= weight.values.size
        if more_bytes < 0:
            break
        chosen.append(weight.name)
    return chosen


def _eight_bits(model: ModelProto) -> list[Weight]:
    return [weight for weight in find_weights(model.graph) if weight.values.dtype == np.int8]


def _check_names(model: ModelProto, names: Collection[str]) -> None:
    known = [weight.name for weight in _eight_bits(model)]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise InputError(f"names must be int8 weights ({', '.join(known) or 'none'}), got {unknown[0]!r}")


def _check_difference(model: ModelProto, widened: ModelProto, names: set[str]) -> None:
    """Raise `InputError` unless only these initialisers and the operator set differ."""
    allowed = [f"{field} of the model differs" for field in ("opset_import", "ir_version")]
    allowed += [f"element type or shape of initialiser {name!r} " for name in names]
    data, structure = difference(model, widened)
    reasons = [words for words in structure if not words.startswith(tuple(allowed))]
    reasons += [f"data of {name!r} differ" for name in data if name not in names]
    if reasons:
        raise InputError(f"more bits must change nothing but grids of weights, but {'; '.join(reasons)}")
