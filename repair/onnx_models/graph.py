"""An ONNX graph as a PyTorch module: the same numbers, and gradients."""

import re
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor, nn

from dflare.errors import InputError
from dflare.models.onnx_files import image_input
from repair.compression import Projection, Quantized
from repair.integers.scales import Rescaled, Scale
from repair.onnx_models.node import Node, complete, last_uses, read_nodes, stored_tensors, with_float_grids
from repair.onnx_models.operators import OPERATORS
from repair.onnx_models.quantization import along_axis, dequantize
from repair.onnx_models.scales import StoredScales
from repair.onnx_models.weights import Weight, find_weights


class OnnxModule(nn.Module):
    """The graph of an ONNX image classifier, run node by node; images (n, c, h, w) -> first output (n, classes).

    Its parameters are the weights and biases, quantised ones as the real numbers that they stand for, together with
    `grids`: parameter name -> the integers allowed. `initializers` maps parameter names to names in the file.
    The `scales` that are handed in become parameters as well, the logarithms that `Scale` takes, with no gradient
    until they are set free; the attribute `scales` maps their names to names in the file.
    Everything else stays as it is. Raises `InputError` for operators, settings and types that it does not know.
    """

    def __init__(self, model: ModelProto, path: Path, scales: StoredScales = StoredScales()) -> None:  # noqa: B008 (frozen)
        super().__init__()
        self.path, self.input = path, image_input(model, path)
        self.output = model.graph.output[0].name
        self.initializers: dict[str, str] = {}
        self.grids: dict[str, Projection] = {}
        self.scales: dict[str, str] = {}
        self._attributes: dict[str, str] = {}  # name in the graph -> name in this module
        self._small: dict[str, Tensor] = {}  # shapes, axes and the like: they stay on the CPU
        stored = stored_tensors(model)
        nodes = [complete(node, stored, self.input.shape[0]) for node in read_nodes(model, path, set(OPERATORS))]
        stored = with_float_grids(stored, nodes)
        self.nodes: list[Node] = []
        self._drop: list[list[str]] = []
        self.nodes = self._register_weights(list(find_weights(model.graph)), nodes, stored)
        self._register_scales(scales, stored)
        self._register_constants(stored)
        self._drop = last_uses(self.nodes, self.output)

    def train(self, mode: bool = True) -> "OnnxModule":
        """Nothing: a compressed model has no training mode."""
        return self

    def forward(self, images: Tensor) -> Tensor:
        values: dict[str, Tensor | None] = {"": None, self.input.name: images, **self._small}
        values |= {name: getattr(self, attribute) for name, attribute in self._attributes.items()}
        for node, drop in zip(self.nodes, self._drop, strict=True):
            values[node.outputs[0]] = OPERATORS[node.op](node, *[values[name] for name in node.inputs])
            for name in drop:
                del values[name]
        scores = values[self.output]
        if scores is None or len(scores) != len(images):
            raise InputError(f"the model in {self.path} must return one row for each of {len(images)} images")
        return scores

    def _register_weights(self, weights: list[Weight], nodes: list[Node], stored: dict[str, np.ndarray]) -> list[Node]:
        """Make parameters of the weights; what is left to run are all nodes but those that dequantise weights."""
        for weight in weights:
            attribute = self._free_name(weight.name)
            self.initializers[attribute] = weight.name
            readers = [node for node in nodes if weight.quantized and node.inputs[0] == weight.name]
            nodes = [node for node in nodes if node not in readers]
            names = [reader.outputs[0] for reader in readers] or [weight.name]
            self._attributes |= dict.fromkeys(names, attribute)
            if readers:
                real, self.grids[attribute] = _grid(weight, readers[0], stored)
            else:
                real = torch.from_numpy(weight.values.copy())
            self.register_parameter(attribute, nn.Parameter(real))
        return nodes

    def _register_scales(self, scales: StoredScales, stored: dict[str, np.ndarray]) -> None:
        """Make parameters of scales, and let the grids of weights and int32 biases follow them."""
        attributes: dict[str, str] = {}
        for name in scales.names:
            attributes[name] = attribute = self._free_name(name)
            start = torch.from_numpy(stored[name].copy())
            self.register_parameter(attribute, nn.Parameter(torch.zeros_like(start), requires_grad=False))
            self.grids[attribute], self.scales[attribute] = Scale(start), name
        self._attributes |= {name: attributes[name] for name in scales.limits}
        followed = {name: (scale,) for name, scale in scales.weights.items()} | scales.biases
        for attribute, name in self.initializers.items():
            known = {attributes[scale]: stored[scale] for scale in followed.get(name, ()) if scale in attributes}
            grid = self.grids.get(attribute)
            if known and isinstance(grid, Quantized):
                starts = {scale: torch.from_numpy(values.copy()) for scale, values in known.items()}
                self.grids[attribute] = Rescaled(grid, starts, gain=name not in scales.biases)

    def _register_constants(self, stored: dict[str, np.ndarray]) -> None:
        used = {name for node in self.nodes for name in node.inputs} | {self.output}
        for name in sorted((used & set(stored)) - set(self._attributes)):
            tensor = torch.from_numpy(stored[name].copy())
            if tensor.is_floating_point():
                self._attributes[name] = self._free_name(name)
                self.register_buffer(self._attributes[name], tensor)
            else:
                self._small[name] = tensor

    def _free_name(self, name: str) -> str:
        """The name without characters that PyTorch refuses in parameter names, and not taken yet."""
        free = re.sub(r"\W", "_", name)
        while hasattr(self, free):
            free += "_"
        return free


def _grid(weight: Weight, node: Node, stored: dict[str, np.ndarray]) -> tuple[Tensor, Quantized]:
    """Real values of a quantised weight (its shape, float32) and the grid that they lie on."""
    scale_name, zero_name = [*node.inputs[1:], ""][:2]
    if scale_name not in stored or (zero_name and zero_name not in stored):
        raise InputError(f"the scale and zero point of weight {weight.name!r} must be stored in the model")
    integers, scale = torch.from_numpy(weight.values.astype(np.float32)), torch.from_numpy(stored[scale_name].copy())
    zero = torch.from_numpy(stored[zero_name].copy()) if zero_name else torch.zeros_like(scale)
    if not (scale > 0).all():
        raise InputError(f"the scales of weight {weight.name!r} must be positive, got {scale.min().item():g}")
    limits = np.iinfo(weight.values.dtype)
    grid = Quantized(
        along_axis(node, scale, integers), along_axis(node, zero, integers), int(limits.min), int(limits.max)
    )
    return dequantize(node, integers, scale, zero), grid
