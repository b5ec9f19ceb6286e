"""Networks with other activations, trained on the outputs of the ACAS Xu networks, as files of their own."""

import os
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from repair.properties.dense import Activation, DenseNetwork
from repair.properties.networks import open_network
from repair.properties.property import Property
from repair.properties.sampling import draw_samples
from repair.properties.writing import save_network

DRAWS, BATCH, STEPS, RATE = 50_000, 512, 4000, 2e-3
"""Inputs to learn from, of the domain and again of the property's boxes, and the training by Adam."""

ERRING = 20_000
"""Counterexamples of the teacher to learn from, at most: without them a student may violate nothing."""


def student_file(teacher: Path, activation: str, wanted: Property, domain: Property, folder: Path) -> Path:
    """The file of a student of as many layers and neurons as its teacher, trained once and kept in `folder`.

    It learns the teacher's scores in units of their standard deviation on inputs of the whole domain, on inputs of the
    property's boxes and on the teacher's counterexamples; its last layer then gives scores on the teacher's scale.
    """
    path = folder / f"{teacher.stem}_{wanted.name}_{activation}.onnx"
    if path.is_file():
        return path
    network = open_network(teacher).network
    drawn = [some.sample(DRAWS, torch.Generator().manual_seed(seed)) for seed, some in enumerate((domain, wanted))]
    erring = draw_samples(network, wanted, ERRING, torch.Generator().manual_seed(2)).counterexamples
    inputs = torch.cat([*drawn, erring])
    with torch.no_grad():
        scores = network(inputs)
    mean, scale = scores.mean(0), scores.std(0).mean()
    student = _train(_untrained(network, activation), inputs, (scores - mean) / scale)
    last = student.layers[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight *= scale
        last.bias.mul_(scale).add_(mean)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    save_network(student, temporary)
    os.replace(temporary, path)
    return path


def _untrained(like: DenseNetwork, activation: str) -> DenseNetwork:
    """The same layers with another activation and weights of their own."""
    sizes = [like.inputs, *like.widths, like.outputs]
    generator = torch.Generator().manual_seed(0)
    layers = []
    for takes, gives in pairwise(sizes):
        layer = nn.Linear(takes, gives)
        nn.init.xavier_normal_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
        layers.append(layer)
    return DenseNetwork(layers, [*[Activation(activation)] * len(like.widths), Activation()])


def _train(student: DenseNetwork, inputs: torch.Tensor, targets: torch.Tensor) -> DenseNetwork:
    optimizer = torch.optim.Adam(student.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        rows = torch.randint(len(inputs), (BATCH,), generator=generator)
        loss = (student(inputs[rows]) - targets[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return student
