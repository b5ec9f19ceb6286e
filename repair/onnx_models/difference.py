"""What differs between two ONNX models: the numbers they store, and everything else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

from repair.onnx_models.weights import read_whole


class Difference(NamedTuple):
    """Initialisers whose numbers differ, by name, and every other difference in words."""

    data: list[str]
    structure: list[str]


def graph_difference(first: Path, second: Path) -> list[str]:
    """Every difference between two ONNX files, a phrase each; empty for the same model.

    Weights that lie beside one file and inside the other are compared by their numbers.
    """
    data, structure = difference(read_whole(first), read_whole(second))
    return structure + [f"data of initialiser {name!r} differ" for name in data]


def difference(first: ModelProto, second: ModelProto) -> Difference:
    """Which numbers differ, and what else does."""
    structure = [f"{name} of the model differs" for name in _fields(first, second, {"graph"})]
    one, two = first.graph, second.graph
    structure += [f"{name} of the graph differs" for name in _fields(one, two, {"node", "initializer"})]
    structure += _node_differences(one, two)
    data, words = _initializer_differences(one, two)
    return Difference(data, structure + words)


def _fields(one: Any, two: Any, except_for: set[str]) -> list[str]:
    """Names of the fields of two messages of one type that differ, in the order of the type's definition."""
    names = [field.name for field in one.DESCRIPTOR.fields if field.name not in except_for]
    return [name for name in names if _plain(getattr(one, name)) != _plain(getattr(two, name))]


def _plain(value: Any) -> Any:
    """A value that compares by its bytes, so that NaN equals itself."""
    if hasattr(value, "SerializeToString"):
        return value.SerializeToString(deterministic=True)
    if isinstance(value, (str, bytes, int, float)):
        return repr(value)
    return [_plain(each) for each in value]


def _node_differences(one: GraphProto, two: GraphProto) -> Iterator[str]:
    if len(one.node) != len(two.node):
        yield f"the number of nodes differs: {len(one.node)} and {len(two.node)}"
        return
    for number, (node, other) in enumerate(zip(one.node, two.node, strict=True)):
        if node.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True):
            continue
        for name in _fields(node, other, {"attribute"}):
            yield f"{name} of node {number} ({node.op_type} {node.name!r}) differs"
        for name in _attribute_differences(node, other):
            yield f"attribute {name} of node {number} ({node.op_type} {node.name!r}) differs"


def _attribute_differences(node: NodeProto, other: NodeProto) -> list[str]:
    one, two = ({each.name: _plain(each) for each in n.attribute} for n in (node, other))
    return sorted(name for name in set(one) | set(two) if one.get(name) != two.get(name))


def _initializer_differences(one: GraphProto, two: GraphProto) -> Difference:
    first, second = ({tensor.name: tensor for tensor in graph.initializer} for graph in (one, two))
    words = [f"initialiser {name!r} is gone" for name in first if name not in second]
    words += [f"initialiser {name!r} is new" for name in second if name not in first]
    if not words and [t.name for t in one.initializer] != [t.name for t in two.initializer]:
        words.append("the order of the initialisers differs")
    data = []
    for name in (name for name in first if name in second):
        tensor, other = first[name], second[name]
        if (tensor.data_type, list(tensor.dims)) != (other.data_type, list(other.dims)):
            words.append(f"element type or shape of initialiser {name!r} differs")
        elif numpy_helper.to_array(tensor).tobytes() != numpy_helper.to_array(other).tobytes():
            data.append(name)
    return Difference(data, words)
