"""Which scales of an int8 ONNX model can be trained, and which biases follow them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from repair.onnx_models.activations import find_activations
from repair.onnx_models.weights import find_weights
from repair.trainable import Scales


@dataclass(frozen=True)
class StoredScales:
    """Names of stored scales that can be trained, and what the scales of int32 biases are made of."""

    limits: tuple[str, ...] = ()  # of activations
    weights: dict[str, str] = field(default_factory=dict)  # of weights: the weight -> its scale
    biases: dict[str, tuple[str, str]] = field(default_factory=dict)  # bias -> scales of its layer's input and weight
    own: dict[str, str] = field(default_factory=dict)  # such a bias -> its own scale

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.limits, *dict.fromkeys(self.weights.values()))


def find_scales(model: ModelProto, which: Scales = Scales.all) -> StoredScales:
    """The scales that can be trained while the file stays what it is: all of them, activations' alone, or none.

    Of activations those of whole tensors, but not the image's: it lies on a grid of bytes already. Of weights those
    that nothing else uses. Left out is also what an int32 bias would have to follow and cannot, because its own scale
    is used elsewhere or the bias has two layers: an integer kernel takes a bias's scale for the product of the other
    two.
    """
    if which is Scales.fixed:
        return StoredScales()
    graph = model.graph
    readers: dict[str, set[int]] = {}
    for number, node in enumerate(graph.node):
        for name in node.input:
            readers.setdefault(name, set()).add(number)
    biases, stuck = _biases(graph, readers)
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    limits = [name for name in _limits(model, readers) if name not in stuck]
    weights = {
        name: scale
        for name, scale in _weight_scales(graph, readers)
        if which is Scales.all and stored[name] != TensorProto.INT32 and scale not in {*stuck, *limits}
    }
    movable = {*limits, *weights.values()}
    following = {name: pair for name, pair in biases.items() if movable & set(pair)}
    own = {name: scale for name, scale in _weight_scales(graph, readers) if name in following}
    return StoredScales(tuple(limits), weights, following, own)


def _limits(model: ModelProto, readers: dict[str, set[int]]) -> Iterator[str]:
    """Scales that only quantisers of whole activations read, and not of the image."""
    images = {entry.name for entry in model.graph.input}
    found = [each for each in find_activations(model) if each.name not in images]
    for name in dict.fromkeys(each.grid[0] for each in found):
        if readers[name] == {number for each in found if each.grid[0] == name for number in each.nodes}:
            yield name


def _weight_scales(graph: GraphProto, readers: dict[str, set[int]]) -> Iterator[tuple[str, str]]:
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for weight in find_weights(graph):
        numbers = readers[weight.name]
        names = {graph.node[number].input[1] for number in numbers} if weight.quantized else set()
        if len(names) == 1:
            (name,) = names
            values = numpy_helper.to_array(stored[name]) if name in stored else np.zeros(1)
            if readers[name] == numbers and values.dtype == np.float32 and (values > 0).all():
                yield weight.name, name


def _biases(graph: GraphProto, readers: dict[str, set[int]]) -> tuple[dict[str, tuple[str, str]], set[str]]:
    """Int32 biases with the scales of their layer's input and weight; and scales that must stay for a bias's sake."""
    makers = {output: node for node in graph.node for output in node.output}
    whole = {tensor.name for tensor in graph.initializer if tensor.data_type == tensor.INT32}
    own = dict(_weight_scales(graph, readers))
    found: dict[str, tuple[str, str]] = {}
    stuck: set[str] = set()
    for node in graph.node:
        bias = _dequantizer(node.input[2], makers) if node.op_type in ("Conv", "Gemm") and len(node.input) > 2 else None
        if bias is None or bias.input[0] not in whole:
            continue
        image, weight = (_dequantizer(name, makers) for name in node.input[:2])
        if image is None or weight is None:
            continue  # no integer kernel: the bias is made real on its own scale
        pair = (image.input[1], weight.input[1])
        if bias.input[0] not in own or found.setdefault(bias.input[0], pair) != pair:
            stuck |= {*pair, *found.get(bias.input[0], ())}
    return {name: pair for name, pair in found.items() if not stuck & set(pair)}, stuck


def _dequantizer(name: str, makers: dict[str, NodeProto]) -> NodeProto | None:
    """The node that makes a tensor real, if there is one."""
    node = makers.get(name)
    return node if node is not None and node.op_type == "DequantizeLinear" else None
