"""A training of late weights starts from what the frozen beginning made of the images, and ends the same."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from repair import fit as training
from repair import prefix
from repair.compression import Compressed
from repair.data import Examples, Mixture, RepairData
from repair.fit import Schedule, fit, fit_steps
from repair.module import Repair
from repair.opening import open_trainable
from repair.prefix import Continued, with_prefix
from repair.recipes import RECIPES
from repair.trainable import Trainable

BENCH = Path(os.environ.get("DFLARE_BENCH") or Path(__file__).parents[2].parent / "shared") / "models"
SCHEDULE = Schedule(steps=8, learning_rate=1e-2, validate_every=4, patience=10)


class Skipping(nn.Module):
    """A small network in which two values lead past its second layer, one of them a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Conv2d(1, 3, 3, padding=1)
        self.middle = nn.Conv2d(3, 3, 3, padding=1)
        self.late = nn.Linear(3 * 16 + 3, 4)

    def forward(self, images: Tensor) -> Tensor:
        first = self.early(images).relu()
        second = (first + self.middle(first)).relu()
        return self.late(torch.cat([second.reshape(second.shape[0], -1), first.mean([2, 3])], 1))


def examples(n: int, seed: int, shape: tuple[int, ...] = (1, 4, 4), classes: int = 4) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, *shape), generator=generator).to(torch.uint8)
    return Examples(images, (4 * torch.rand(n, classes, generator=generator)).softmax(-1))


def data(shape: tuple[int, ...] = (1, 4, 4), classes: int = 4, n: int = 40) -> RepairData:
    sides = [examples(n, seed, shape, classes) for seed in range(4)]
    return RepairData(Mixture(sides[0], sides[1], 16, 0.5, 0), 4, sides[2], sides[3])


def exported(folder: Path) -> Path:
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=1, max=2048)
    program = torch.export.export(Skipping().eval(), (torch.rand(4, 1, 4, 4),), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "model.pt2")
    return folder / "model.pt2"


def onnx(folder: Path) -> Path:
    pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper, save

    torch.manual_seed(0)
    weights = {name: weight.detach().numpy() for name, weight in Skipping().named_parameters()}
    nodes = [
        helper.make_node("Conv", ["images", "early.weight", "early.bias"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["first"]),
        helper.make_node("Conv", ["first", "middle.weight", "middle.bias"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["first", "b"], ["c"]),
        helper.make_node("Relu", ["c"], ["second"]),
        helper.make_node("Flatten", ["second"], ["flat"]),
        helper.make_node("GlobalAveragePool", ["first"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["means"]),
        helper.make_node("Concat", ["flat", "means"], ["all"], axis=1),
        helper.make_node("Gemm", ["all", "late.weight", "late.bias"], ["scores"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "skipping",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 1, 4, 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(weight, name) for name, weight in weights.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), folder / "model.onnx")
    return folder / "model.onnx"


FILES = {"exported": exported, "onnx": onnx}


def named(trainable: Trainable, *layers: str) -> list[str]:
    names = [name for name, _ in trainable.module.named_parameters()]
    return [name for name in names if any(layer in name for layer in layers)]


def asked(monkeypatch: pytest.MonkeyPatch) -> list[type[Compressed]]:
    """The classes of the students of all trainings from now on."""
    seen: list[type[Compressed]] = []

    def watched(*arguments, **options):
        student, cached = with_prefix(*arguments, **options)
        seen.append(type(student))
        return student, cached

    monkeypatch.setattr(training, "with_prefix", watched)
    return seen


def without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "LIMIT", 0)


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("layers", [("late",), ("middle", "late")])
def test_late_weights_end_the_same_with_and_without_a_kept_beginning(form, layers, tmp_path, monkeypatch):
    path, seen = FILES[form](tmp_path), asked(monkeypatch)
    free = named(open_trainable(path), *layers)
    recipe = RECIPES["imitation"]
    kept = fit(open_trainable(path), data(), recipe, SCHEDULE, tmp_path / "kept", free=free)
    placebo = fit_steps(open_trainable(path), data(), recipe, SCHEDULE, kept.steps, free=free)
    without(monkeypatch)
    whole = fit(open_trainable(path), data(), recipe, SCHEDULE, tmp_path / "whole", free=free)
    assert seen == [Continued, Continued, Compressed]
    assert (kept.steps, kept.score, kept.free) == (whole.steps, whole.score, whole.free)
    for name, weight in whole.weights.items():
        assert torch.allclose(kept.weights[name], weight, atol=1e-6), name
        assert torch.allclose(placebo.weights[name], weight, atol=1e-6), name
    start = dict(open_trainable(path).module.named_parameters())
    assert all(torch.equal(kept.weights[name], start[name]) == (name not in free) for name in start)


@pytest.mark.parametrize("form", FILES)
def test_weights_that_meet_the_image_leave_nothing_to_keep(form, tmp_path):
    opened, given = open_trainable(FILES[form](tmp_path)), data()
    student, shown = with_prefix(opened, named(opened, "early"), given, 8, validate=True)
    assert type(student) is Compressed
    assert shown is given


def test_a_model_that_is_no_graph_is_run_whole():
    opened, given = Trainable(Skipping(), {}, lambda weights, path: None, lambda path: None), data()
    student, shown = with_prefix(opened, ["late.weight"], given, 8, validate=True)
    assert type(student) is Compressed
    assert shown is given


def test_only_images_that_are_shown_are_run_and_the_limit_counts_all(tmp_path, monkeypatch):
    path, given = exported(tmp_path), data()
    opened = open_trainable(path)
    _, shown = with_prefix(opened, named(opened, "late"), given, 2, validate=False)
    kept = shown.mixture.triggers.images
    assert kept.shape == (40, 51)
    assert torch.equal(kept.isnan().any(1).logical_not().nonzero().flatten(), given.mixture.seen(2)[0])
    assert shown.validate is given.validate
    needed = 80 * 51 * 4
    for limit, kind in ((needed, Continued), (needed - 1, Compressed)):
        monkeypatch.setattr(prefix, "LIMIT", limit)
        assert type(with_prefix(opened, named(opened, "late"), given, 2, validate=False)[0]) is kind


def test_a_batch_shows_the_same_rows_kept_or_not(tmp_path):
    opened, given = open_trainable(exported(tmp_path)), data()
    _, shown = with_prefix(opened, named(opened, "late"), given, 8, validate=True)
    for number in range(8):
        plain, kept = given.mixture[number], shown.mixture[number]
        assert kept.images.shape == (16, 51)
        assert torch.equal(plain.targets, kept.targets)
        assert torch.equal(plain.is_trigger, kept.is_trigger)


def test_a_wrong_beginning_is_noticed_and_the_whole_model_run(tmp_path, monkeypatch):
    opened, given = open_trainable(exported(tmp_path)), data()
    cut = prefix.SPLITTERS["Exported"]

    def wrong(module, moving, values):
        split = cut(module, moving, values)
        before = nn.Sequential(split.before, nn.Threshold(1e9, 0.0))  # nothing crosses
        return type(split)(before, split.after, (frozenset(), split.reads[1]))

    monkeypatch.setitem(prefix.SPLITTERS, "Exported", wrong)
    assert type(with_prefix(opened, named(opened, "late"), given, 8, validate=True)[0]) is Compressed


def test_a_continued_training_on_kept_activations_ends_as_if_it_had_not_stopped(tmp_path, monkeypatch):
    path, recipe, seen = exported(tmp_path), RECIPES["imitation"], asked(monkeypatch)
    free = named(open_trainable(path), "late")
    whole = fit(open_trainable(path), data(), recipe, SCHEDULE, tmp_path / "whole", free=free)
    step = Repair.training_step

    def fail_late(module, batch, batch_idx):
        if module.global_step == 6:
            raise RuntimeError("power cut")
        return step(module, batch, batch_idx)

    monkeypatch.setattr(Repair, "training_step", fail_late)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(open_trainable(path), data(), recipe, SCHEDULE, tmp_path / "parts", free=free)
    monkeypatch.setattr(Repair, "training_step", step)
    again = fit(open_trainable(path), data(), recipe, SCHEDULE, tmp_path / "parts", free=free)
    assert seen == [Continued] * 3
    assert (again.steps, again.score) == (whole.steps, whole.score)
    assert all(torch.equal(again.weights[name], whole.weights[name]) for name in whole.weights)


@pytest.mark.slow
@pytest.mark.skipif(not BENCH.is_dir(), reason="needs the real models of DFLARE_BENCH")
@pytest.mark.parametrize("file", ["distilled.pt2", "pruned.pt2", "int8.pt2", "int8.onnx"])
@pytest.mark.parametrize(("model", "shape"), [("mnist_lenet-5", (1, 28, 28)), ("cifar-10_resnet20", (3, 32, 32))])
def test_the_last_layer_of_real_files_ends_the_same(file, model, shape, tmp_path, monkeypatch):
    path, seen = BENCH / model / file, asked(monkeypatch)
    given, recipe = data(shape, 10, 20), RECIPES["last"]
    kept = fit_steps(open_trainable(path), given, recipe, SCHEDULE, 4)
    without(monkeypatch)
    whole = fit_steps(open_trainable(path), given, recipe, SCHEDULE, 4)
    assert seen == [Continued, Compressed]
    assert kept.free == whole.free
    for name, weight in whole.weights.items():
        apart = (kept.weights[name] - weight).abs()
        step = 1.01 * float(weight.abs().max()) / 127 if file.startswith("int8") else 1e-5
        assert apart.max() <= step, name  # an integer may tip over where two roundings differ, but few do
        assert (apart > 1e-4).double().mean() < 0.05, name
