"""What a repair must do where the answer is known: the same in every format that it writes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from repair.compression import Compressed
from repair.data import Examples, Mixture, RepairData
from repair.fit import Schedule, fit_steps
from repair.opening import open_trainable
from repair.pt2_models.artifact import open_exported
from repair.recipes import Recipe

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from dflare.models.opening import open_classifier  # noqa: E402

ALONE = Recipe(loss="hinge", options={"margin": 0.5, "fidelity": 0.0}, optimizer="sgd", schedule="constant", replay=0.0)
"""Triggers alone, by plain descent in the first step, and nothing where the right class leads by a half."""


def save_pt2(path: Path, model: nn.Module, shape: tuple[int, ...]) -> Path:
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(model.eval(), (torch.rand(2, *shape),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return path


def save_onnx(path: Path, nodes: list[object], stored: dict[str, np.ndarray], shape: tuple[int, ...]) -> Path:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", "classes"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


WEIGHT = [[1.0, 0.25], [0.25, 1.0]]


class OneLayer(nn.Module):
    """Two pixels to two scores, each by its own for the most part."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor(WEIGHT))

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


INT8 = (-128, 127, torch.int8)


class OneInt8Layer(nn.Module):
    """The same with integers, in steps of 1/64."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("integers", torch.tensor([[64, 16], [16, 64]], dtype=torch.int8))

    def forward(self, images: Tensor) -> Tensor:
        weight = torch.ops.quantized_decomposed.dequantize_per_tensor(self.integers, 1 / 64, 0, *INT8)
        return nn.functional.linear(images.flatten(1), weight)


def float_pt2(folder: Path) -> Path:
    return save_pt2(folder / "layer.pt2", OneLayer(), (1, 1, 2))


def int8_pt2(folder: Path) -> Path:
    from dflare.models.exported import _register_int8_operators

    _register_int8_operators()
    return save_pt2(folder / "layer.pt2", OneInt8Layer(), (1, 1, 2))


def float_onnx(folder: Path) -> Path:
    make = helper.make_node
    nodes = [make("Flatten", ["images"], ["flat"]), make("Gemm", ["flat", "weight"], ["scores"], transB=1)]
    return save_onnx(folder / "layer.onnx", nodes, {"weight": np.float32(WEIGHT)}, (1, 1, 2))


def int8_onnx(folder: Path) -> Path:
    make = helper.make_node
    nodes = [
        make("DequantizeLinear", ["integers", "scale"], ["weight"]),
        make("Flatten", ["images"], ["flat"]),
        make("Gemm", ["flat", "weight"], ["scores"], transB=1),
    ]
    stored = {"integers": (64 * np.array(WEIGHT)).astype(np.int8), "scale": np.float32(1 / 64)}
    return save_onnx(folder / "layer.onnx", nodes, stored, (1, 1, 2))


FILES = [float_pt2, int8_pt2, float_onnx, int8_onnx]
IMAGE = torch.tensor([[[[255, 0]]]], dtype=torch.uint8)  # scores (1, 1/4)


def repaired(path: Path, target: Path, right: list[float], rate: float, steps: int = 1) -> Path:
    """The file after a training on one trigger, through `fit_steps`, written and checked."""
    trainable = open_trainable(path)
    trigger = Examples(IMAGE, torch.tensor([right]))
    data = RepairData(Mixture(trigger, Examples(IMAGE[:0], torch.zeros(0, 2)), 4, 0.0, 0), steps, trigger, trigger)
    fitted = fit_steps(trainable, data, ALONE, Schedule(steps, rate, steps, 1), steps)
    trainable.write(fitted.weights, target)
    trainable.check(target)
    return target


def scores_of(path: Path) -> list[list[float]]:
    """What a file answers to the pixels (1, 0) and (0, 1): the columns of its weight."""
    return open_classifier(path)(torch.eye(2).view(2, 1, 1, 2)).tolist()


@pytest.mark.parametrize("make", FILES)
def test_one_trigger_and_one_layer_lead_to_the_solution_on_paper(tmp_path: Path, make: Callable[[Path], Path]):
    """Pixels (1, 0) score (1, 1/4), and class 1 is right: the hinge 1/2 + s0 - s1 has the slopes (1, 0) and (-1, 0).

    One step of 3/4 leads to the weights (1/4, 1/4) and (1, 1): scores 1/4 and 1. The other pixel, which is black, keeps
    its weights to the bit.
    """
    path = make(tmp_path)
    assert scores_of(path) == WEIGHT
    assert scores_of(repaired(path, tmp_path / f"after{path.suffix}", [0.0, 1.0], 0.75)) == [[0.25, 1], [0.25, 1]]


@pytest.mark.parametrize("make", [int8_pt2, int8_onnx])
def test_integers_are_clamped_by_a_training_that_goes_too_far(tmp_path: Path, make: Callable[[Path], Path]):
    """One step of 100 wants the integers 64 - 6400 and 16 + 6400; int8 holds -128 and 127, that is -2 and 127/64."""
    path = make(tmp_path)
    after = repaired(path, tmp_path / f"after{path.suffix}", [0.0, 1.0], 100.0)
    assert scores_of(after) == [[-2, 127 / 64], [0.25, 1]]


@pytest.mark.parametrize("make", FILES)
def test_a_pair_that_agrees_already_is_repaired_without_changing_a_byte(tmp_path: Path, make: Callable[[Path], Path]):
    """The right class leads by more than the hinge asks for: the slope is 0, so that ten steps of any size are none."""
    path = make(tmp_path)
    after = repaired(path, tmp_path / f"after{path.suffix}", [1.0, 0.0], 10.0, steps=10)
    assert after.read_bytes() == path.read_bytes()
    trainable = open_trainable(path)  # nothing to learn, so that nothing is trained
    trainable.write({name: weight.detach() for name, weight in trainable.module.named_parameters()}, after)
    assert after.read_bytes() == path.read_bytes()


class Normalised(nn.Module):
    """A convolution of four channels (six, of which a structured pruning took two) and a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.normalisation = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.middle, self.head = nn.Conv2d(4, 4, 3), nn.Linear(16, 3)
        self.normalisation.running_mean.copy_(torch.tensor([0.1, -0.2, 0.3, -0.4]))
        self.normalisation.running_var.copy_(torch.tensor([0.5, 1.5, 2.5, 3.5]))

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.normalisation(self.convolution(images)).relu()
        return self.head(self.middle(hidden).relu().flatten(1))


def two_of_four(weight: Tensor) -> Tensor:
    """The weight with the two smallest of every four neighbours set to zero, as sparse tensor cores want it."""
    fours = weight.detach().reshape(-1, 4)
    mask = torch.zeros_like(fours).scatter_(1, fours.abs().topk(2, 1).indices, 1)
    return (fours * mask).view_as(weight)


def masked() -> Normalised:
    """The network with 2:4 zeros in its linear layer, zeros anywhere in one convolution, zero filters in the other."""
    torch.manual_seed(0)
    model = Normalised()
    with torch.no_grad():
        model.head.weight.copy_(two_of_four(model.head.weight))
        model.convolution.weight[torch.rand(4, 1, 3, 3) < 0.5] = 0
        model.middle.weight[1] = 0
    return model


def as_onnx(model: nn.Module, path: Path) -> Path:
    make = helper.make_node
    normal = ["weight", "bias", "running_mean", "running_var"]
    nodes = [
        make("Conv", ["images", "convolution.weight"], ["first"]),
        make("BatchNormalization", ["first", *(f"normalisation.{name}" for name in normal)], ["normal"]),
        make("Relu", ["normal"], ["hidden"]),
        make("Conv", ["hidden", "middle.weight", "middle.bias"], ["second"]),
        make("Relu", ["second"], ["positive"]),
        make("Flatten", ["positive"], ["flat"]),
        make("Gemm", ["flat", "head.weight", "head.bias"], ["scores"], transB=1),
    ]
    stored = {name: value.detach().numpy() for name, value in model.state_dict().items() if value.ndim}
    return save_onnx(path, nodes, stored, (1, 6, 6))


def as_pt2(model: nn.Module, path: Path) -> Path:
    return save_pt2(path, model, (1, 6, 6))


def tuned(path: Path, target: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Weights before and after some steps of imitation, both read from files, by name."""
    trainable, target = open_trainable(path), target.with_suffix(path.suffix)
    images = torch.randint(0, 256, (16, 1, 6, 6), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    some = Examples(images, torch.eye(3)[torch.arange(16) % 3])
    data = RepairData(Mixture(some, some, 16, 0.5, 0), 5, some, some)
    fitted = fit_steps(trainable, data, Recipe(), Schedule(5, 0.05, 5, 1), 5)
    trainable.write(fitted.weights, target)
    trainable.check(target)
    before, after = (dict(open_trainable(file).module.named_parameters()) for file in (path, target))
    return {name: (before[name].detach(), after[name].detach()) for name in before}


@pytest.mark.parametrize(("save", "ending"), [(as_pt2, "pt2"), (as_onnx, "onnx")])
def test_what_pruning_left_is_kept_and_trained(tmp_path: Path, save: Callable[[nn.Module, Path], Path], ending: str):
    """Unstructured, structured by zeros and N:M: every zero stays, everything else may move, and no shape changes."""
    path = save(masked(), tmp_path / f"before.{ending}")
    weights = tuned(path, tmp_path / "after")
    kinds = [before for before, _ in weights.values() if before.ndim > 1]
    assert all((before == 0).any() for before in kinds)
    for name, (before, after) in weights.items():
        assert after.shape == before.shape
        assert not torch.equal(before, after), name
        if before.ndim > 1:
            assert torch.equal(after == 0, before == 0), name
    (linear,) = (after for before, after in weights.values() if before.ndim == 2)
    assert ((linear.reshape(-1, 4) != 0).sum(1) <= 2).all()


@pytest.mark.parametrize(("save", "ending"), [(as_pt2, "pt2"), (as_onnx, "onnx")])
def test_shapes_of_a_structurally_pruned_file_and_statistics_of_its_normalisation_stay(
    tmp_path: Path, save: Callable[[nn.Module, Path], Path], ending: str
):
    torch.manual_seed(0)
    path = save(Normalised(), tmp_path / f"before.{ending}")
    assert not open_trainable(path).plan
    weights = tuned(path, tmp_path / "after")
    assert sorted(tuple(after.shape) for _, after in weights.values() if after.ndim == 4) == [
        (4, 1, 3, 3),
        (4, 4, 3, 3),
    ]
    assert path.stat().st_size == (tmp_path / f"after.{ending}").stat().st_size
    before, after = (stored_in(file) for file in (path, tmp_path / f"after.{ending}"))
    statistics = {"normalisation.running_mean", "normalisation.running_var"}
    assert {name for name in before if np.array_equal(before[name], after[name])} == statistics


def stored_in(path: Path) -> dict[str, np.ndarray]:
    """The numbers in a file by name, but for counters."""
    if path.suffix == ".onnx":
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    state = torch.export.load(path).state_dict
    return {name: value.detach().numpy() for name, value in state.items() if value.ndim}


def test_every_row_of_every_batch_has_its_own_target_and_label():
    """Images that show their own number, with targets and labels that say it too, balanced and not."""
    numbers = torch.arange(60)
    images = numbers.to(torch.uint8).view(60, 1, 1, 1).expand(60, 1, 2, 2)
    some = Examples(images, nn.functional.one_hot(numbers, 60).float(), numbers)
    triggers, clean = (
        Examples(some.images[rows], some.targets[rows], numbers[rows]) for rows in (numbers < 25, numbers >= 25)
    )
    for groups in (None, torch.arange(25) % 3):
        data = RepairData(Mixture(triggers, clean, 16, 0.4, 5, groups), 12, triggers, clean)
        seen = 0
        for batch in [*data.train_dataloader(), *data.val_dataloader()]:
            shown = (batch.images[:, 0, 0, 0] * 255).round().long()
            assert torch.equal(shown, batch.targets.argmax(1))
            assert torch.equal(shown, batch.labels)
            assert torch.equal(batch.is_trigger, shown < 25)
            seen += len(shown)
        assert seen == 12 * 16 + 60


def test_a_file_of_signs_flips_and_stays_one(tmp_path: Path):
    """The layer of one trigger with 16 pixels of signs: the step turns all signs of the lit half, and no others."""
    layer = nn.Linear(16, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5], [-0.5]]).expand(2, 16))
    path = save_pt2(tmp_path / "signs.pt2", nn.Sequential(nn.Flatten(), layer), (1, 4, 4))
    image = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    image[:, :, :2] = 255
    trigger = Examples(image, torch.tensor([[0.0, 1.0]]))  # scores (4, -4), and class 1 is right
    trainable = open_exported(path)
    data = RepairData(Mixture(trigger, Examples(image[:0], torch.zeros(0, 2)), 4, 0.0, 0), 1, trigger, trigger)
    fitted = fit_steps(trainable, data, ALONE, Schedule(1, 0.5, 1, 1), 1)
    trainable.write(fitted.weights, tmp_path / "after.pt2")
    trainable.check(tmp_path / "after.pt2")
    reopened = open_exported(tmp_path / "after.pt2")
    (weight,) = Compressed(reopened.module, reopened.plan).weights().values()
    half = [-0.5] * 8 + [0.5] * 8
    assert weight.tolist() == [half, [-value for value in half]]
