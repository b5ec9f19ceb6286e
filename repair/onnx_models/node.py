"""The nodes and stored tensors of an ONNX graph, read into plain values."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from dflare.errors import InputError

OLDEST_OPSET = 7
"""Earlier operator sets broadcast by other rules."""

QUANTIZERS = {"QuantizeLinear", "DequantizeLinear"}
"""Operators that ONNX Runtime also knows in its own domain, for integers that old operator sets lack."""


@dataclass(frozen=True)
class Node:
    """One node of an ONNX graph, with the version of the operator set that says what it means."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int
    attributes: dict[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def refuse(self, setting: str) -> InputError:
        """The error for a setting that is not supported."""
        return InputError(f"node {self.name!r} ({self.op}) uses {setting}, which a repair does not support")


def read_nodes(model: ModelProto, path: Path, known: set[str]) -> list[Node]:
    """The nodes in the order of the file, without constants; raises `InputError` for operators that are not known."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST_OPSET:
        raise InputError(f"the model in {path} uses operator set {opset}, a repair needs {OLDEST_OPSET} or newer")
    nodes = []
    for node in model.graph.node:
        at_home = node.domain in ("", "ai.onnx") or (node.domain == "com.microsoft" and node.op_type in QUANTIZERS)
        if at_home and node.op_type == "Constant":
            continue
        if not at_home or node.op_type not in known:
            raise InputError(
                f"node {node.name!r} in {path} is a {node.op_type}, which a repair cannot go through; "
                f"it knows {', '.join(sorted(known))}"
            )
        attributes = {each.name: _attribute(each) for each in node.attribute}
        nodes.append(Node(node.op_type, node.name, tuple(node.input), tuple(node.output), opset, attributes))
    return nodes


def stored_tensors(model: ModelProto) -> dict[str, np.ndarray]:
    """Everything that the graph holds by name: initialisers and constants."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return stored | {node.output[0]: _constant(node) for node in model.graph.node if node.op_type == "Constant"}


def complete(node: Node, stored: dict[str, np.ndarray], batch: int | str) -> Node:
    """The node with what it takes from elsewhere: its integers' type, or the batch size that the export fixed."""
    if node.op == "Reshape" and isinstance(batch, int):
        return replace(node, attributes=node.attributes | {"fixed_batch": batch})
    if node.op not in QUANTIZERS:
        return node
    zero = stored.get(node.inputs[2]) if len(node.inputs) > 2 else None
    elements = {2: "uint8", 3: "int8", 4: "uint16", 5: "int16"}
    element = str(zero.dtype) if zero is not None else elements.get(node.get("output_dtype", 0) or 2)
    inputs = node.inputs if zero is None or zero.any() else node.inputs[:2]
    return replace(node, inputs=inputs, attributes=node.attributes | {"element": element})


def with_float_grids(stored: dict[str, np.ndarray], nodes: list[Node]) -> dict[str, np.ndarray]:
    """The stored numbers with those that quantisers read as float32, which holds 8 and 16 bits exactly."""
    names = {name for node in nodes if node.op in QUANTIZERS for name in node.inputs} & set(stored)
    return stored | {name: stored[name].astype(np.float32) for name in names}


def last_uses(nodes: list[Node], output: str) -> list[list[str]]:
    """For every node the names that nothing needs after it."""
    seen, drops = {output, ""}, []
    for node in reversed(nodes):
        names = {*node.inputs, node.outputs[0]} - seen
        seen |= names
        drops.append(sorted(names))
    return drops[::-1]


def _attribute(attribute: Any) -> Any:
    value = helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value


def _constant(node: NodeProto) -> np.ndarray:
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return numpy_helper.to_array(value)
    if attribute.name in ("value_int", "value_ints", "value_float", "value_floats"):
        return np.asarray(value, np.int64 if "int" in attribute.name else np.float32)
    raise InputError(f"constant {node.name!r} must be a tensor of numbers, got {attribute.name}")
