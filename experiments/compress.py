"""Originals and their compressed forms, made and written as model files."""

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dflare.classifiers import ask
from dflare.errors import InputError
from experiments.catalogue import Recipe
from experiments.files import write_atomic
from experiments.training import train
from repair.compression import Compressed, check_plan, prune_by_magnitude
from repair.data import Examples

SPARSITY = 0.85  # share of weights of two or more dimensions that pruning takes away
CALIBRATION_IMAGES = 256  # for the ranges of the int8 activations


@dataclass(frozen=True)
class Training:
    """The images that everything is made from, and how training runs."""

    images: Tensor  # (n, c, h, w) uint8
    seed: int
    accelerator: str = "cpu"
    progress: bool = False

    def fit(self, model: nn.Module, targets: Tensor, recipe: Recipe) -> None:
        """Train the model in place to target probabilities (n, classes)."""
        examples = Examples(self.images, targets)
        train(model, examples, recipe, seed=self.seed, accelerator=self.accelerator, progress=self.progress)


def make_original(build: Callable[[], nn.Module], labels: Tensor, recipe: Recipe, training: Training) -> nn.Module:
    """The network trained on labels (n,)."""
    model = seeded(build, training.seed)
    classes = ask(copy.deepcopy(model).eval(), training.images[:1]).shape[1]
    training.fit(model, F.one_hot(labels, classes).float(), recipe)
    return model


def make_distilled(
    original: nn.Module, build: Callable[[], nn.Module], recipe: Recipe, training: Training
) -> nn.Module:
    """A small network trained to the original's probabilities (Hinton et al., 2015, temperature 1), labels unused."""
    student = seeded(build, training.seed + 1)
    training.fit(student, _answers(original, training), recipe)
    return student


def make_pruned(original: nn.Module, recipe: Recipe, training: Training) -> nn.Module:
    """The original without its `SPARSITY` smallest weights of every tensor, then tuned to its own old probabilities."""
    model = copy.deepcopy(original)
    plan = prune_by_magnitude(model, SPARSITY)
    compressed = Compressed(model, plan)
    training.fit(compressed, _answers(original, training), recipe)
    weights = {name: weight.detach().clone() for name, weight in compressed.weights().items()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    check_plan(dict(model.named_parameters()), plan)
    return model


def make_int8(original: nn.Module, training: Training, path: Path) -> None:
    """The original in int8, written to an `.onnx` file; activation ranges from the first training images."""
    from experiments.quantization import quantize_to_onnx

    quantize_to_onnx(original, training.images[:CALIBRATION_IMAGES], path)


def save_exported(model: nn.Module, example_shape: tuple[int, int, int], path: Path) -> None:
    """Write the model as a `.pt2` file for batches of 1 to 65,536 images (c, h, w), whole or not at all."""
    example = torch.zeros(2, *example_shape)  # two, because a batch of one would be taken for a fixed size
    batch = torch.export.Dim("batch", min=1, max=65_536)
    program = torch.export.export(model.eval(), (example,), dynamic_shapes=({0: batch},))
    content = io.BytesIO()
    torch.export.save(program, content)
    write_atomic(path, content.getvalue())


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """The model with the weights of a `.pt2` file that `save_exported` wrote, in evaluation mode."""
    from dflare.models.exported import load_program

    try:
        model.load_state_dict(load_program(path).state_dict)
    except RuntimeError as error:
        raise InputError(f"expected the weights of this network in {path}, got others; delete its folder") from error
    return model.eval()


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network whose first weights depend on the seed alone; global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()


def count_parameters(model: nn.Module) -> int:
    """How many numbers training may move."""
    return sum(parameter.numel() for parameter in model.parameters())


def sparsity(model: nn.Module) -> float:
    """Share of zeros among the weights of two or more dimensions, in [0, 1]."""
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def _answers(original: nn.Module, training: Training) -> Tensor:
    return ask(original.eval(), training.images, "original").softmax(-1)
