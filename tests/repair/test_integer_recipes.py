"""Recipes for integers on a file: they lower their loss, change what they name, resume exactly, and may do nothing."""

from pathlib import Path

import pytest
import torch

from dflare.models.opening import open_classifier
from repair.data import Examples, Mixture, RepairData
from repair.fit import Fitted, Schedule, fit, fit_steps
from repair.losses import imitation
from repair.opening import open_trainable
from repair.recipes import RECIPES, find_recipe
from repair.trainable import Trainable

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from tests.repair.rounded_net import net, pixels, save, stored_in  # noqa: E402

SCHEDULE = Schedule(steps=15, learning_rate=1e-2, validate_every=5, patience=100)
NAMES = ["scales", "limits", "weights+scales", "rounding", "int8"]


def examples(n: int, seed: int) -> Examples:
    images = pixels(n, seed)
    return Examples(images, (images.float().flatten(1)[:, :3] / 40).softmax(-1))


def data() -> RepairData:
    return RepairData(Mixture(examples(40, 1), examples(60, 2), 16, 0.5, 0), 5, examples(20, 3), examples(20, 4))


def opened(name: str, folder: Path) -> Trainable:
    return open_trainable(save(net(), folder / "int8.onnx"), scales=find_recipe(name).scales)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_for_integers_lowers_its_loss_in_the_file_that_it_writes(name: str, tmp_path: Path):
    trainable = opened(name, tmp_path)
    fitted = fit_steps(trainable, data(), find_recipe(name), SCHEDULE, 15)
    trainable.write(fitted.weights, tmp_path / "new.onnx")
    trainable.check(tmp_path / "new.onnx")
    batch = examples(40, 1).batch(slice(None), is_trigger=True)
    paths = (tmp_path / "int8.onnx", tmp_path / "new.onnx")
    before, after = (imitation(open_classifier(path)(batch.images), batch)["triggers"] for path in paths)
    assert after < before
    types = [{name: value.dtype for name, value in stored_in(onnx.load(path)).items()} for path in paths]
    assert types[0] == types[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_rate_of_nothing_changes_no_byte(name: str, tmp_path: Path):
    trainable = opened(name, tmp_path)
    still = Schedule(steps=2, learning_rate=0.0, validate_every=2, patience=100)
    trainable.write(fit_steps(trainable, data(), find_recipe(name), still, 2).weights, tmp_path / "new.onnx")
    assert (tmp_path / "new.onnx").read_bytes() == (tmp_path / "int8.onnx").read_bytes()


@pytest.mark.parametrize("name", ["weights+scales", "rounding"])
def test_an_interrupted_training_of_integers_ends_as_if_it_had_not_been(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def run(folder: str) -> Fitted:
        return fit(opened(name, tmp_path), data(), RECIPES[name], SCHEDULE, tmp_path / folder)

    whole, load, seen = run("whole"), RepairData.train_dataloader, []

    def fail_later(batches: RepairData):
        seen.append(1)
        if len(seen) == 3:
            raise RuntimeError("power cut")
        return load(batches)

    monkeypatch.setattr(RepairData, "train_dataloader", fail_later)
    with pytest.raises(RuntimeError, match="power cut"):
        run("parts")
    monkeypatch.undo()
    again = run("parts")
    assert (again.steps, again.score, again.free) == (whole.steps, whole.score, whole.free)
    assert all(torch.equal(weight, whole.weights[each]) for each, weight in again.weights.items())


def test_a_placebo_moves_the_scales_that_the_repair_moved(tmp_path: Path):
    first = fit_steps(opened("limits", tmp_path), data(), RECIPES["limits"], SCHEDULE, 3)
    assert first.free == ("h_s", "y_s")
    again = fit_steps(opened("limits", tmp_path), data(), RECIPES["limits"], SCHEDULE, 3, first.free)
    assert all(torch.equal(weight, first.weights[each]) for each, weight in again.weights.items())
