"""Classifiers as ONNX graphs that take images in [0, 1] themselves, and two of them as one graph on one input.

What `dflare.models.shown` does around a file - range, mean, std, layout, choice of classes - becomes part of the graph,
so that a box of pixels in [0, 1] is a box of its input. Two classifiers become a product: the scores of the first,
then those of the second, (1, classes of both). A last softmax is left off: it keeps the order of the scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import ModelProto, NodeProto, TensorProto, compose, helper, numpy_helper
from torch import Tensor

from dflare.classifiers import Classifier
from dflare.errors import InputError, first_line
from dflare.models.interface import Interface, chosen_classes
from dflare.models.onnx_ends import onnx_takes
from dflare.models.onnx_files import image_input
from dflare.models.opening import open_classifier
from repair.onnx_models.opset import HOME, raise_opset
from repair.onnx_models.weights import read_whole

INPUT, OUTPUT = "images", "scores"

PROBES = 16
"""Random images on which a graph must answer as the files do."""

TOLERANCE = 1e-4
"""Of their scores, relative to the largest: the same sums in another order differ by some 1e-6."""


@dataclass(frozen=True)
class ModelFile:
    """An ONNX file of an image classifier, and how it is shown images."""

    path: Path
    interface: Interface = Interface()  # noqa: RUF009 (frozen)

    def open(self) -> Classifier:
        """The classifier as the product's judges ask it: the file itself in ONNX Runtime, on one thread."""
        return open_classifier(self.path, self.interface, threads=1)


def product(files: Sequence[ModelFile], shape: tuple[int, int, int]) -> ModelProto:
    """One graph of these files on images (1, channels, height, width) in [0, 1] -> all scores one after the other.

    `shape` is (channels, height, width). The graph is run in ONNX Runtime beside the files. Raises `InputError` for a
    file that takes no float32 images of that shape, for preprocessing that is more than scaling, and where the answers
    differ.
    """
    models = [read_whole(file.path) for file in files]
    newest = max(entry.version for model in models for entry in model.opset_import if entry.domain in HOME)
    nodes: list[NodeProto] = []
    tensors: list[TensorProto] = []
    outputs: list[str] = []
    parts = []
    for index, (file, model) in enumerate(zip(files, models, strict=True)):
        part = compose.add_prefix(raise_opset(model, newest), f"model{index}_")
        end = _Part(file, index, part, nodes, tensors).add(shape)
        parts.append(part)
        outputs.append(end)
    nodes.append(helper.make_node("Concat", outputs, [OUTPUT], axis=1))
    images = torch.rand(PROBES, *shape, generator=torch.Generator().manual_seed(0))
    scores = [file.open()(images) for file in files]
    taken = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, *shape])
    given = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, sum(one.shape[1] for one in scores)])
    graph = helper.make_graph(nodes, "product", [taken], [given], tensors)
    domains = {entry.domain: entry for part in parts for entry in part.opset_import if entry.domain not in HOME}
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", newest), *domains.values()],
        ir_version=max(8, *(part.ir_version for part in parts)),
        functions=[function for part in parts for function in part.functions],
    )
    _compare(made, files, images, scores)
    return made


def run_product(model: ModelProto, inputs: Tensor) -> Tensor:
    """The outputs (n, outputs) of a product for images (n, ...), float32, one at a time in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    answers = [session.run(None, {entry.name: one.reshape(entry.shape).numpy()})[0].reshape(1, -1) for one in inputs]
    return torch.from_numpy(np.concatenate(answers))


@dataclass
class _Part:
    """One file on its way into the product's nodes and tensors."""

    file: ModelFile
    index: int
    model: ModelProto  # with its prefix
    nodes: list[NodeProto]
    tensors: list[TensorProto]

    def add(self, shape: tuple[int, int, int]) -> str:
        """All of its nodes; the name of its scores (1, classes)."""
        graph, path = self.model.graph, self.file.path
        images = image_input(self.model, path)
        takes, _ = onnx_takes(self.model, images, path)
        if images.element != TensorProto.FLOAT:
            raise InputError(f"a claim about {path} needs float32 images, it takes ONNX's type {images.element}")
        entry = self.shown(self.file.interface.completed(takes), takes.channels or shape[0], shape)
        outer = {images.name: entry}
        made = {name for node in graph.node for name in node.output}
        for node in graph.node:
            node.input[:] = [outer.get(name, name) for name in node.input]
        if images.name in made:
            raise InputError(f"{path} must not write to its own input")
        self.nodes += graph.node
        self.tensors += graph.initializer
        return self.read(graph.output[0].name)

    def shown(self, chosen: Interface, channels: int, shape: tuple[int, int, int]) -> str:
        """The nodes that make what the model sees of the images; the name of that."""
        path, value = self.file.path, INPUT
        size = tuple(chosen.size or shape[1:])
        if (
            size != shape[1:]
            or (channels, shape[0]) == (1, 3)
            or chosen.channels == "grey" != {1: "grey"}.get(shape[0])
        ):
            raise InputError(
                f"a claim about {path} needs images of its own size and channels, {channels} x {size[0]} x {size[1]}, "
                f"got {' x '.join(map(str, shape))}"
            )
        if shape[0] == 1 and (channels == 3 or chosen.channels in ("rgb", "bgr")):
            value = self.node("Concat", [value] * 3, axis=1)
        elif chosen.channels == "bgr":
            value = self.node("Gather", [value, self.constant(np.array([2, 1, 0], np.int64))], axis=1)
        black, white = chosen.range or (0, 1)
        for operator, numbers, nothing in (
            ("Mul", [white - black], 1), ("Add", [black], 0), ("Sub", chosen.mean, 0), ("Div", chosen.std, 1)
        ):  # fmt: skip
            if numbers is not None and any(number != nothing for number in numbers):
                value = self.node(
                    operator, [value, self.constant(np.array(list(numbers), np.float32).reshape(1, -1, 1, 1))]
                )
        return self.node("Transpose", [value], perm=[0, 2, 3, 1]) if chosen.layout == "nhwc" else value

    def read(self, answers: str) -> str:
        """The nodes that make scores (1, classes) of the answers; the name of them."""
        last = next((node for node in self.nodes if answers in node.output), None)
        if last is not None and last.op_type in ("Softmax", "LogSoftmax"):
            self.nodes.remove(last)
            answers = last.input[0]
        answers = self.node("Flatten", [answers], axis=1)
        if self.file.interface.classes is None:
            return answers
        which = np.array(chosen_classes(self.file.interface.classes), np.int64)
        return self.node("Gather", [answers, self.constant(which)], axis=1)

    def node(self, operator: str, takes: list[str], **settings: Any) -> str:
        name = f"shown{self.index}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, takes, [name], name=name, **settings))
        return name

    def constant(self, numbers: np.ndarray) -> str:
        name = f"constant{self.index}_{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(numbers, name))
        return name


def _compare(model: ModelProto, files: Sequence[ModelFile], images: Tensor, scores: list[Tensor]) -> None:
    """Raise `InputError` unless the product answers as the files do, up to what is added to all scores of one file.

    That much a softmax that is left off may add.
    """
    names = " and ".join(str(file.path) for file in files)
    try:
        onnx.checker.check_model(model)
        answers = run_product(model, images)
    except Exception as error:
        raise InputError(f"{names} cannot be put into one graph: {first_line(error)}") from error
    for file, said, wanted in zip(files, answers.split([one.shape[1] for one in scores], dim=1), scores, strict=True):
        said, wanted = (one - one.amax(-1, keepdim=True) for one in (said, wanted))
        if not torch.allclose(said, wanted, rtol=0, atol=TOLERANCE * float(wanted.abs().amax().clamp(min=1e-6))):
            gap = float((said - wanted).abs().amax())
            raise InputError(f"{file.path} must answer in one graph of {names} as alone, its scores are {gap:g} apart")
