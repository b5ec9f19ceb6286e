"""The last layer of a model, found in the graph of a gradient."""

from typing import Any

from torch import Tensor

from dflare.classifiers import to_unit
from repair.compression import Compressed
from repair.trainable import Trainable


def last_layer(trainable: Trainable, images: Tensor) -> list[str]:
    """The weights between the answer and the first weight of two or more dimensions met on the way back from it.

    By parameter name. `images`: uint8 (n, c, h, w), n >= 1, of which the first is asked. Read from the graph of its
    answer's gradient and not from names, which differ by format: going back towards the image, all parameters that
    flow in from the side, up to and with the first matrix or kernel.
    """
    student = Compressed(trainable.module, trainable.plan, trainable.shown)
    image = to_unit(images[:1]).requires_grad_()
    names = {id(weight): name for name, weight in trainable.module.named_parameters()}
    graph = _Graph(student(image))
    on_the_way = graph.above(image)
    found: list[str] = []
    waiting, seen = [graph.root], set()
    while waiting:
        node = waiting.pop()
        if node in seen or node not in on_the_way:
            continue
        seen.add(node)
        side = [leaf for other in graph.inputs[node] if other not in on_the_way for leaf in graph.leaves(other)]
        found += [names[id(leaf)] for leaf in side if id(leaf) in names]
        if all(leaf.ndim < 2 for leaf in side if id(leaf) in names):
            waiting += graph.inputs[node]
    return found


class _Graph:
    """The operations that an answer's gradient goes through, each with those that feed it."""

    def __init__(self, answer: Tensor) -> None:
        self.root = answer.grad_fn
        self.inputs: dict[Any, list[Any]] = {}
        waiting: list[Any] = [self.root]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in self.inputs:
                self.inputs[node] = [below for below, _ in node.next_functions if below is not None]
                waiting += self.inputs[node]

    def leaves(self, start: Any) -> list[Tensor]:
        """The tensors that all comes from below an operation."""
        found: list[Tensor] = []
        waiting, seen = [start], set()
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            if hasattr(node, "variable"):
                found.append(node.variable)
            waiting += self.inputs[node]
        return found

    def above(self, leaf: Tensor) -> set[Any]:
        """The operations that a leaf flows through."""
        users: dict[Any, list[Any]] = {node: [] for node in self.inputs}
        for node, below in self.inputs.items():
            for one in below:
                users[one].append(node)
        waiting = [node for node in self.inputs if getattr(node, "variable", None) is leaf]
        reached: set[Any] = set()
        while waiting:
            node = waiting.pop()
            if node not in reached:
                reached.add(node)
                waiting += users[node]
        return reached
