"""A `DenseNetwork` of our own as an ONNX file, for networks that come from no file."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from repair.properties.dense import DenseNetwork

OPSET, FORMAT = 17, 8
"""Operator set and version of the file format: old enough for every runtime that is still in use."""


def save_network(network: DenseNetwork, path: Path) -> None:
    """Write the network to an ONNX file that takes `inputs` (n, inputs) and returns `outputs` (n, outputs)."""
    nodes, tensors, value = [], [], "inputs"

    def keep(name: str, numbers: np.ndarray) -> str:
        tensors.append(numpy_helper.from_array(numbers, name))
        return name

    for index, operator in enumerate(network.operators):
        constant = keep(f"constant_{index}", getattr(network, f"constant_{index}").detach().numpy())
        nodes.append(helper.make_node(operator, [value, constant], [f"scaled_{index}"]))
        value = f"scaled_{index}"
    weights = network.weights()
    for index, activation in enumerate(network.activations):
        names = [name for name in (f"layers.{index}.weight", f"layers.{index}.bias") if name in weights]
        takes = [value, *(keep(name, weights[name].numpy()) for name in names)]
        last = index == len(network.activations) - 1
        result = "outputs" if last else f"hidden_{index}"
        linear = f"linear_{index}" if activation.name else result
        nodes.append(helper.make_node("Gemm", takes, [linear], transB=1))
        if activation.name:
            settings: dict[str, Any] = dict(activation.settings)
            nodes.append(helper.make_node(activation.name, [linear], [result], **settings))
        value = result
    first, last_value = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])]
        for name, size in (("inputs", network.inputs), ("outputs", network.outputs))
    )
    graph = helper.make_graph(nodes, "network", first, last_value, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=FORMAT), path)
