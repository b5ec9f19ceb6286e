"""The rules of `repair.outputs.head` as ONNX operators."""

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from repair.outputs.head import FLOOR, LIFT, Arrays


class Graph:
    """Nodes and constants as they come up."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, name: str, value: np.ndarray) -> str:
        """The name of a constant."""
        self.constants[name] = value
        return name

    def __call__(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """The name of what an operator answers."""
        name = name or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def top(self, values: str) -> str:
        """The greatest value of each row, (n, 1)."""
        return self("ReduceMax", values, self.constant("last", np.array([-1])), keepdims=1)

    def features(self, scores: str) -> str:
        """What `repair.outputs.head.features` computes."""
        floor = self.constant("floor", np.array(FLOOR, np.float32))
        return self("Max", self("Sub", scores, self.top(scores)), floor)


def _identity(graph: Graph, arrays: Arrays, scores: str) -> str:
    return scores


def _linear(graph: Graph, arrays: Arrays, scores: str) -> str:
    return _one_up(graph, scores, graph("ArgMax", _votes(graph, arrays, scores), axis=-1, keepdims=1))


def _mlp(graph: Graph, arrays: Arrays, scores: str) -> str:
    return _one_up(graph, scores, graph("ArgMax", _layers(graph, arrays, scores), axis=-1, keepdims=1))


def _shift(graph: Graph, arrays: Arrays, scores: str) -> str:
    return graph("Add", graph.features(scores), _votes(graph, arrays, scores))


def _residual(graph: Graph, arrays: Arrays, scores: str) -> str:
    return graph("Add", graph.features(scores), _layers(graph, arrays, scores))


def _votes(graph: Graph, arrays: Arrays, scores: str) -> str:
    return _affine(graph, arrays, _standardised(graph, arrays, scores), "weight", "bias")


def _layers(graph: Graph, arrays: Arrays, scores: str) -> str:
    hidden = graph("Relu", _affine(graph, arrays, _standardised(graph, arrays, scores), "weight_0", "bias_0"))
    return _affine(graph, arrays, hidden, "weight_1", "bias_1")


def _standardised(graph: Graph, arrays: Arrays, scores: str) -> str:
    mean, scale = (graph.constant(name, np.asarray(arrays[name])) for name in ("mean", "scale"))
    return graph("Div", graph("Sub", graph.features(scores), mean), scale)


def _affine(graph: Graph, arrays: Arrays, values: str, weight: str, bias: str) -> str:
    factor, term = (graph.constant(name, np.asarray(arrays[name])) for name in (weight, bias))
    return graph("Add", graph("MatMul", values, factor), term)


def _tree(graph: Graph, arrays: Arrays, scores: str) -> str:
    """All questions at once; a leaf is where all of its own are answered as on the way to it."""
    ways, counts, labels = _ways(arrays)
    inner = np.flatnonzero(np.asarray(arrays["left"]) != np.arange(len(arrays["left"])))
    asked = graph.constant("feature", np.asarray(arrays["feature"])[inner].astype(np.int64))
    limits = graph.constant("threshold", np.asarray(arrays["threshold"])[inner])
    values = graph("Gather", graph.features(scores), asked, axis=1)
    answers = graph("Cast", graph("LessOrEqual", values, limits), to=TensorProto.FLOAT)
    met = graph("Sub", graph("MatMul", answers, graph.constant("ways", ways)), graph.constant("counts", counts))
    label = graph("Gather", graph.constant("label", labels), graph("ArgMax", met, axis=-1, keepdims=1))
    return _one_up(graph, scores, label)


def _ways(arrays: Arrays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each leaf the signs (questions, leaves) of its way, how many of them are yes (leaves,), and its label.

    The answers (0 or 1) times the signs, less the count, are 0 at the leaf that a row falls into and below elsewhere.
    """
    left, right = (np.asarray(arrays[name]) for name in ("left", "right"))
    nodes = np.arange(len(left))
    places = np.cumsum(left != nodes) - 1
    way: dict[int, dict[int, float]] = {0: {}}
    for node in nodes[left != nodes].tolist():
        way[int(left[node])] = {**way[node], int(places[node]): 1.0}
        way[int(right[node])] = {**way[node], int(places[node]): -1.0}
    leaves = nodes[left == nodes].tolist()
    signs = np.zeros((int((left != nodes).sum()), len(leaves)), np.float32)
    for column, leaf in enumerate(leaves):
        for row, sign in way[leaf].items():
            signs[row, column] = sign
    return signs, (signs > 0).sum(0).astype(np.float32), np.asarray(arrays["label"])[leaves].astype(np.int64)


def _one_up(graph: Graph, scores: str, label: str) -> str:
    """What `repair.outputs.head.one_up` computes; `label` is (n, 1)."""
    best, first = graph.top(scores), graph("ArgMax", scores, axis=-1, keepdims=1)
    same = graph("Cast", graph("Equal", scores, best), to=TensorProto.FLOAT)
    count = graph("ReduceSum", same, graph.constant("last", np.array([-1])), keepdims=1)
    one, lift = (graph.constant(name, np.array(value, np.float32)) for name, value in (("one", 1), ("lift", LIFT)))
    above = graph("Add", best, graph("Mul", graph("Add", one, graph("Abs", best)), lift))
    raised = graph("Where", graph("Greater", count, one), above, best)
    width = graph("Gather", graph("Shape", scores), graph.constant("second", np.array([1])))
    keep = graph("GreaterOrEqual", label, width)
    named = graph("Where", keep, first, label)
    swapped = graph("ScatterElements", scores, first, graph("GatherElements", scores, named, axis=1), axis=1)
    return graph("Where", keep, scores, graph("ScatterElements", swapped, named, raised, axis=1))


GRAPHS: dict[str, Callable[[Graph, Arrays, str], str]] = {
    "identity": _identity,
    "linear": _linear,
    "mlp": _mlp,
    "tree": _tree,
    "shift": _shift,
    "residual": _residual,
}
"""Kind of head -> its operators."""
