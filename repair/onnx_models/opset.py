"""Operator sets of ONNX: a newer one for the same graph, where its operators mean the same."""

from onnx import ModelProto, NodeProto, defs

from dflare.errors import InputError

WITH_16_BITS = 21
"""The first operator set whose `QuantizeLinear` knows uint16 and int16."""

ITS_FORMAT = 10
"""The first version of the file format (IR) that goes with it."""

HOME = ("", "ai.onnx")
"""How the domain of ONNX's own operators is written."""

KEPT = {
    "Add": 7, "AveragePool": 10, "BatchNormalization": 9, "Cast": 13, "Clip": 11, "Concat": 4, "Constant": 11,
    "ConstantOfShape": 9, "DequantizeLinear": 10, "Div": 7, "Dropout": 12, "Equal": 11, "Erf": 9, "Expand": 8,
    "Flatten": 9, "Gather": 11, "Gemm": 9, "Identity": 1, "LeakyRelu": 6, "LRN": 1, "MatMul": 9, "Max": 8,
    "MaxPool": 8, "Min": 8, "Mul": 7, "Pad": 11, "Pow": 7, "PRelu": 9, "QuantizeLinear": 10, "Relu": 6, "Reshape": 5,
    "Shape": 1, "Sigmoid": 6, "Size": 1, "Slice": 10, "Softmax": 13, "Sqrt": 6, "Squeeze": 13, "Sub": 7, "Sum": 8,
    "Tanh": 6, "Transpose": 1, "Unsqueeze": 13,
}  # fmt: skip
"""Operator -> the version since which a node keeps its meaning up to operator set 21.

From ONNX's Changelog.md: later versions only add element types, optional inputs and attributes whose defaults are the
old behaviour. Missing here, for example: `ReduceMean` (axes became an input) and `GroupNormalization` (its scale has
another shape).
"""


def raise_opset(model: ModelProto, least: int = WITH_16_BITS) -> ModelProto:
    """A copy of the model under operator set `least` or its own newer one, that computes the same.

    Raises `InputError` for an operator that means something else there, and for graphs inside nodes, whose operators
    and whose uses of outer tensors are not looked into.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    inner = next((n for n in copy.graph.node for each in n.attribute if each.HasField("g") or each.graphs), None)
    if inner is not None:
        raise InputError(f"node {inner.name!r} ({inner.op_type}) holds a graph, which more bits cannot enter")
    entry = next((each for each in copy.opset_import if each.domain in HOME), None)
    if entry is None or entry.version >= least:
        return copy
    for node in copy.graph.node:
        if node.domain in HOME and not _keeps_meaning(node, entry.version, least):
            raise InputError(
                f"more bits need operator set {least}, the model has {entry.version} and node {node.name!r} "
                f"({node.op_type}) may mean something else there; export the model again with opset {least} or newer"
            )
    entry.version = least
    copy.ir_version = max(copy.ir_version, ITS_FORMAT)
    return copy


def _keeps_meaning(node: NodeProto, old: int, new: int) -> bool:
    try:
        before, after = (defs.get_schema(node.op_type, version, "").since_version for version in (old, new))
    except defs.SchemaError:
        return False
    return before == after or before >= KEPT.get(node.op_type, after)
