"""Small fully connected networks for MNIST, trained here, as files of their own that take images."""

import os
from itertools import pairwise
from pathlib import Path

import onnx
import torch
from onnx import helper
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from repair.properties.dense import Activation, DenseNetwork
from repair.properties.writing import save_network

DENSE = {
    "dense-50x2-relu": ((50, 50), "Relu"),
    "dense-50x2-tanh": ((50, 50), "Tanh"),
    "dense-100x3-relu": ((100, 100, 100), "Relu"),
    "dense-100x3-tanh": ((100, 100, 100), "Tanh"),
}
"""Name -> neurons of the hidden layers, and their activation."""

PIXELS, CLASSES = 28 * 28, 10

BATCH, STEPS, RATE = 128, 2500, 1e-3
"""The training by Adam: some five passes over the 60,000 images."""


def dense_file(name: str, images: Tensor, labels: Tensor, folder: Path, steps: int = STEPS) -> Path:
    """The file of the network of that name, trained once on uint8 images (n, 1, 28, 28) and kept in `folder`."""
    path = folder / f"{name}-{steps}.onnx"
    if path.is_file():
        return path
    network = _train(_untrained(*DENSE[name]), images, labels, steps)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    save_network(network, temporary)
    _take_images(temporary)
    os.replace(temporary, path)
    return path


def _untrained(widths: tuple[int, ...], activation: str) -> DenseNetwork:
    generator, layers = torch.Generator().manual_seed(0), []
    for takes, gives in pairwise((PIXELS, *widths, CLASSES)):
        layer = nn.Linear(takes, gives)
        nn.init.xavier_normal_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
        layers.append(layer)
    return DenseNetwork(layers, [*[Activation(activation)] * len(widths), Activation()])


def _train(network: DenseNetwork, images: Tensor, labels: Tensor, steps: int) -> DenseNetwork:
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        rows = torch.randint(len(images), (BATCH,), generator=generator)
        loss = cross_entropy(network(images[rows].flatten(1).float() / 255), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network


def _take_images(path: Path) -> None:
    """Let the network of vectors in a file take images (n, 1, 28, 28)."""
    model = onnx.load(path)
    graph = model.graph
    name = graph.input[0].name
    shape = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["n", 1, 28, 28])
    graph.input[0].CopyFrom(shape)
    graph.node.insert(0, helper.make_node("Flatten", ["images"], [name], axis=1))
    onnx.checker.check_model(model)
    onnx.save(model, path)
