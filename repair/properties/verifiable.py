"""Claims for verifiers: one ONNX graph, one property of its inputs and outputs, and the files that have the last word.

A verifier reasons about the graph in real arithmetic. Whatever counterexample it finds counts only when the files that
the claim is about, asked in ONNX Runtime, show it too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from onnx import ModelProto
from torch import Tensor

from dflare.classifiers import Outputs
from dflare.errors import InputError
from dflare.writing import write_atomic
from repair.onnx_models.weights import read_whole
from repair.properties.balls import Balls
from repair.properties.networks import run_onnx
from repair.properties.products import ModelFile, product
from repair.properties.property import Box, Case, Polytope, Property
from repair.properties.vnnlib_text import write_vnnlib

MOST_CLASSES = 100
"""Of a pair: the unsafe region has a part for every two classes, and readers of VNN-LIB take some 10,000 of them."""


@dataclass(frozen=True)
class Claim:
    """That `model` has no input that violates `wanted`; inputs are flat, in the order of the graph's input."""

    model: ModelProto
    wanted: Property
    confirm: Callable[[Tensor], Tensor]  # inputs (n, inputs) -> whether the files violate it, asked alone, (n,) bool
    about: Path  # what errors name

    @property
    def name(self) -> str:
        """Also what its files are called."""
        return self.wanted.name

    def export(self, folder: Path) -> tuple[Path, Path]:
        """Write `<name>.onnx` and `<name>.vnnlib` for external verifiers; the paths of the two."""
        paths = folder / f"{self.name}.onnx", folder / f"{self.name}.vnnlib"
        write_atomic(paths[0], self.model.SerializeToString(deterministic=True))
        write_vnnlib(self.wanted, paths[1])
        return paths


def property_claim(path: Path, wanted: Property) -> Claim:
    """That the network in an ONNX file has a property, in the units of the file's own input."""

    def confirm(inputs: Tensor) -> Tensor:
        return torch.cat([wanted.violated(one, run_onnx(path, one)) for one in inputs.split(1)])

    return Claim(read_whole(path), wanted, confirm, path)


def robustness_claim(file: ModelFile, image: Tensor, radius: float, name: str, label: int | None = None) -> Claim:
    """That a classifier answers `label`, alone, to all images within an L-inf radius of one and within [0, 1].

    `image` is uint8 (channels, height, width), `radius` in (0, 1]; no label means the answer at the image.
    """
    centre = _centre(image)
    classifier = file.open()
    scores = classifier(centre[None])
    right = int(scores.argmax()) if label is None else label
    wanted = Balls(centre[None], torch.tensor([right]), radius).as_property(scores.shape[1], name)

    def confirm(inputs: Tensor) -> Tensor:
        images = inputs.reshape(-1, *centre.shape)
        return torch.cat([wanted.violated(one.flatten(1), classifier(one)) for one in images.split(1)])

    return Claim(product([file], _shape(centre)), wanted, confirm, file.path)


def agreement_claim(original: ModelFile, compressed: ModelFile, image: Tensor, radius: float, name: str) -> Claim:
    """That a pair agrees on all images within an L-inf radius of one and within [0, 1].

    `image` is uint8 (channels, height, width), `radius` in (0, 1]. Unsafe is, for any two classes i and j, that i is a
    top class of the original and the compressed finds j no worse than i. That region holds ties; the files confirm a
    counterexample only as a deviation, when their sets of top classes are disjoint.
    """
    centre, pair = _centre(image), (original.open(), compressed.open())
    scores = [classifier(centre[None]) for classifier in pair]
    classes = scores[0].shape[1]
    if scores[1].shape[1] != classes or classes > MOST_CLASSES:
        raise InputError(
            f"a claim of agreement needs two models of the same classes, at most {MOST_CLASSES}, got {classes} from "
            f"{original.path} and {scores[1].shape[1]} from {compressed.path}"
        )
    ends = Balls(centre[None], torch.tensor([0]), radius).bounds()
    box = Box(*(end.flatten().double() for end in ends))
    unsafe = tuple(_deviation(i, j, classes) for i in range(classes) for j in range(classes) if i != j)
    wanted = Property(name, centre.numel(), 2 * classes, (Case(box, unsafe),))

    def confirm(inputs: Tensor) -> Tensor:
        images = inputs.reshape(-1, *centre.shape).split(1)
        return torch.cat([Outputs(*(classifier(one) for classifier in pair)).deviates for one in images])

    return Claim(product([original, compressed], _shape(centre)), wanted, confirm, compressed.path)


def _deviation(top: int, other: int, classes: int) -> Polytope:
    """Scores of both models in which `top` is a top class of the first, and the second finds `other` no worse."""
    rows = torch.zeros(classes, 2 * classes, dtype=torch.float64)
    for row, rival in enumerate(one for one in range(classes) if one != top):
        rows[row, rival], rows[row, top] = 1.0, -1.0
    rows[-1, classes + top], rows[-1, classes + other] = 1.0, -1.0
    return Polytope(rows, torch.zeros(classes, dtype=torch.float64))


def _centre(image: Tensor) -> Tensor:
    if image.dtype != torch.uint8 or image.ndim != 3:
        kind = str(image.dtype).removeprefix("torch.")
        raise InputError(f"image must be uint8 (channels, height, width), got {kind} {tuple(image.shape)}")
    return image.float() / 255


def _shape(centre: Tensor) -> tuple[int, int, int]:
    channels, height, width = centre.shape
    return channels, height, width
