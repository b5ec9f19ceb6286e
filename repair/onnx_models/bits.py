"""More bits for the activations of an int8 ONNX model: the same graph on finer grids."""

from collections.abc import Collection, Mapping

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from dflare.errors import InputError
from repair.onnx_models.activations import Activation, find_activations, named
from repair.onnx_models.difference import difference
from repair.onnx_models.opset import raise_opset
from repair.onnx_models.quantization import RANGES

WIDER = {"uint8": "uint16", "int8": "int16", "uint16": "uint16", "int16": "int16"}
"""Element type -> the one of 16 bits with the same sign."""

LEVELS = 65_535 // 255
"""Steps of 16 bits in one of 8: 257, a whole number, so every number of the old grid lies on the new one."""

Grid = tuple[np.float32, int]  # scale, zero point


def widen(
    model: ModelProto, tensors: Collection[str], ranges: Mapping[str, tuple[float, float]] | None = None
) -> ModelProto:
    """A copy of the model in which these activations have 16 bits; all else is as it was.

    uint8 becomes uint16 and int8 int16. The grid covers the same real range with 65,536 levels in place of 256: scale
    s / 257 and zero point 257 z (+ 128 with sign), so real zero stays a level. With `ranges`, tensor -> (least,
    greatest) seen, it covers those instead, and zero; but an end at zero stays there, because a quantiser that cuts
    at zero stands for a ReLU that the export removed. Weights and biases keep their integers and scales.
    What has 16 bits already stays. Raises `InputError` for names of no activation, ranges of no numbers, and for
    operators that mean something else in the operator set 21 that this needs.
    """
    copy, spans = raise_opset(model), ranges or {}
    chosen = [each for each in named(copy, tensors) if each.element in ("uint8", "int8") or each.name in spans]
    groups: dict[tuple[tuple[str, str], Grid], list[Activation]] = {}
    for activation in chosen:
        groups.setdefault((activation.grid, _grid(activation, spans.get(activation.name))), []).append(activation)
    for (names, grid), members in groups.items():
        _regrid(copy, names, grid, members)
    _drop_unused(copy, {name for activation in chosen for name in activation.grid})
    rounded = {
        activation.rounded: TensorProto.DataType.Value(WIDER[activation.element].upper()) for activation in chosen
    }
    for value in copy.graph.value_info:
        if value.name in rounded:
            value.type.tensor_type.elem_type = rounded[value.name]
    check_widened(model, copy, tensors)
    return copy


def check_widened(model: ModelProto, widened: ModelProto, tensors: Collection[str]) -> None:
    """Raise `InputError` unless the two models differ in these activations' grids and the operator set alone."""
    before, after = named(model, tensors), named(widened, tensors)
    nodes = [number for activation in before for number in activation.nodes]
    grids = {name for activation in (*before, *after) for name in activation.grid}
    allowed = [f"{field} of the model differs" for field in ("opset_import", "ir_version")]
    allowed += [f"input of node {number} (" for number in nodes]
    for name in grids:
        allowed += [f"initialiser {name!r} is ", f"element type or shape of initialiser {name!r} "]
    if {activation.rounded for activation in before} & {value.name for value in model.graph.value_info}:
        allowed.append("value_info of the graph differs")
    if {each.domain for each in model.opset_import} - {each.domain for each in widened.opset_import}:
        raise InputError("a widened model must import every operator set of the one it came from")
    data, structure = difference(model, widened)
    reasons = [words for words in structure if not words.startswith(tuple(allowed))]
    reasons += [f"data of {name!r} differ" for name in data if name not in grids]
    reasons += [f"{a.name!r} has {a.element}" for a in after if a.element not in ("uint16", "int16")]
    if reasons:
        raise InputError(f"more bits must change nothing but grids of activations, but {'; '.join(reasons)}")


def with_float_output(model: ModelProto) -> ModelProto:
    """A copy of the model whose first output is not rounded: without its last `QuantizeLinear` and `DequantizeLinear`.

    An output on 256 levels has ties, and this is the cheapest repair. A model whose output is not rounded comes back
    as it was. Raises `InputError` where the rounding cuts at zero, because it then stands for a ReLU.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    name = copy.graph.output[0].name
    last = next(
        (a for a in find_activations(copy) for reader in a.readers if copy.graph.node[reader].output[0] == name), None
    )
    if last is None:
        return copy
    if 0 in last.ends:
        raise InputError(f"output {name!r} is cut at zero by its quantiser, which stands for a ReLU: it must be kept")
    readers = [node for node in copy.graph.node if last.name in node.input]
    if len(last.readers) > 1 or len(readers) > 1 or any(name in node.input for node in copy.graph.node):
        raise InputError(f"output {name!r} must be read by nothing in the graph to be made float")
    maker = next((node for node in copy.graph.node if last.name in node.output), None)
    if maker is None:
        raise InputError(f"output {name!r} must be computed by a node to be made float, it is the input")
    maker.output[list(maker.output).index(last.name)] = name
    for number in sorted(last.nodes, reverse=True):
        del copy.graph.node[number]
    gone = {last.name, last.rounded}
    kept = [value for value in copy.graph.value_info if value.name not in gone]
    del copy.graph.value_info[:]
    copy.graph.value_info.extend(kept)
    _drop_unused(copy, set(last.grid))
    return copy


def _grid(activation: Activation, span: tuple[float, float] | None) -> Grid:
    """Scale and zero point on 16 bits; for the same range, or for `span` and zero."""
    low, high = RANGES[WIDER[activation.element]]
    if span is None:
        return np.float32(activation.scale / LEVELS), LEVELS * activation.zero + (128 if low else 0)
    least, greatest = (float(end) for end in span)
    if not (np.isfinite([least, greatest]).all() and least <= greatest):
        raise InputError(f"the range of {activation.name!r} must be two numbers, least first, got {span}")
    ends = activation.ends
    least, greatest = min(least, 0.0) if ends[0] else 0.0, max(greatest, 0.0) if ends[1] else 0.0
    if least == greatest:
        least, greatest = ends  # nothing was seen: the range stays
    scale = np.float32((greatest - least) / (high - low))
    return scale, int(np.clip(round(low - least / float(scale)), low, high))


def _regrid(model: ModelProto, names: tuple[str, str], grid: Grid, members: list[Activation]) -> None:
    """Put activations that shared a grid on another one; in place where nothing else uses the old one."""
    nodes = [model.graph.node[number] for member in members for number in member.nodes]
    uses = sum(name in names for node in model.graph.node for name in node.input)
    shared = "" in names or uses != sum(name in names for node in nodes for name in node.input)
    taken = {tensor.name for tensor in model.graph.initializer}
    scale_name, zero_name = (
        tuple(_free(f"{members[0].name}_{what}_16bit", taken) for what in ("scale", "zero_point")) if shared else names
    )
    dtype = WIDER[members[0].element]
    for name, value in ((scale_name, np.float32(grid[0])), (zero_name, np.dtype(dtype).type(grid[1]))):
        old = next((tensor for tensor in model.graph.initializer if tensor.name == name), None)
        shape = tuple(old.dims) if old is not None else ()
        new = numpy_helper.from_array(np.full(shape, value), name)
        (old if old is not None else model.graph.initializer.add()).CopyFrom(new)
    for node in nodes:
        node.input[1:] = [scale_name, zero_name]


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _drop_unused(model: ModelProto, names: set[str]) -> None:
    """Remove initialisers of these names that nothing reads any more."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used or tensor.name not in names]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
