"""Recipes are rows: every one trains, resumes exactly, and a wrong one is refused in one sentence."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dflare.errors import InputError
from repair.anchor import Anchor
from repair.compression import Compressed
from repair.data import Examples, Mixture, RepairData
from repair.fit import Fitted, Schedule, fit, fit_steps
from repair.optimizers import OPTIMIZERS
from repair.recipe_files import read_recipe, shipped_recipes
from repair.recipes import RECIPES, Recipe, find_recipe
from repair.trainable import Trainable

SCHEDULE = Schedule(steps=30, learning_rate=1e-2, validate_every=10, patience=100)


def examples(n: int, seed: int) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return Examples(images, (images.float().flatten(1)[:, :3] / 50).softmax(-1))


def student() -> Trainable:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    return Trainable(module, {}, lambda weights, path: None, lambda path: None)


def data(replay: float = 0.5) -> RepairData:
    groups = torch.arange(50) % 3
    mixture = Mixture(examples(50, 1), examples(200, 2), 32, replay, 0, groups)
    return RepairData(mixture, 10, examples(40, 3), examples(80, 4))


def same(first: Fitted, second: Fitted) -> bool:
    return all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)


ALL = RECIPES | {name: read_recipe(path) for name, path in shipped_recipes().items()}


INTEGERS = {"scales", "limits", "rounding", "int8"}
"""Recipes for models on grids of integers, see `test_integer_recipes`."""


@pytest.mark.parametrize("name", [name for name in ALL if name not in INTEGERS])
def test_every_recipe_lowers_its_own_loss_on_the_triggers(name: str):
    from repair.losses import make_loss

    fitted, opened = fit_steps(student(), data(), ALL[name], SCHEDULE, 30), student()
    batch = examples(50, 1).batch(slice(None), is_trigger=True)
    loss = make_loss(ALL[name].loss, ALL[name].options)
    before = loss(opened.module(batch.images), batch)["triggers"]
    opened.module.load_state_dict(fitted.weights)
    assert loss(opened.module(batch.images), batch)["triggers"] < before
    assert ALL[name].about


@pytest.mark.parametrize("name", ["sgd", "adamw", "anchored", "constant", "responsible", "hinge"])
def test_an_interrupted_training_ends_as_if_it_had_not_been(name: str, tmp_path: Path):
    whole = fit(student(), data(), RECIPES[name], SCHEDULE, tmp_path / "whole")
    broken = data()
    load, seen = broken.train_dataloader, []

    def fail_later():
        seen.append(1)
        if len(seen) == 3:
            raise RuntimeError("power cut")
        return load()

    broken.train_dataloader = fail_later  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="power cut"):
        fit(student(), broken, RECIPES[name], SCHEDULE, tmp_path / "parts")
    continued = fit(student(), data(), RECIPES[name], SCHEDULE, tmp_path / "parts")
    assert (continued.steps, continued.score, continued.free) == (whole.steps, whole.score, whole.free)
    assert same(continued, whole)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_training_is_the_ten_lines_that_it_should_be(optimizer: str, schedule: str):
    """Bit for bit: the batches in order, the loss, PyTorch's optimiser, its cosine."""
    recipe = Recipe(optimizer=optimizer, schedule=schedule, rate=0.5)
    fitted, module, batches = fit_steps(student(), data(), recipe, SCHEDULE, 30), student().module, data().mixture
    made = {
        "adam": lambda p: torch.optim.Adam(p, lr=5e-3, fused=True),
        "sgd": lambda p: torch.optim.SGD(p, lr=5e-3, momentum=0.9),
        "adamw": lambda p: torch.optim.AdamW(p, lr=5e-3, weight_decay=0.01, fused=True),
    }[optimizer](module.parameters())
    course = torch.optim.lr_scheduler.CosineAnnealingLR(made, T_max=30)
    for number in range(30):
        batch = batches[number]
        each = F.cross_entropy(module(batch.images), batch.targets, reduction="none")
        trigger = (each * batch.is_trigger).sum() / batch.is_trigger.sum()
        loss = trigger + (each * ~batch.is_trigger).sum() / (~batch.is_trigger).sum()
        made.zero_grad()
        loss.backward()
        made.step()
        if schedule == "cosine":
            course.step()
    assert all(torch.equal(weight, fitted.weights[name]) for name, weight in module.named_parameters())


def test_the_anchor_is_the_mean_squared_distance_and_pulls_back_along_it():
    torch.manual_seed(0)
    student = Compressed(nn.Linear(3, 2), {})
    anchor = Anchor(student, strength=8.0)
    assert anchor(student) == 0
    with torch.no_grad():
        student.model.bias += 1.0  # 2 of 8 numbers moved by 1
    cost = anchor(student)
    assert cost.item() == pytest.approx(8 * 2 / 8)
    cost.backward()
    assert student.model.bias.grad.tolist() == pytest.approx([2.0, 2.0])  # 8 * 2 * distance / 8
    assert not student.model.weight.grad.any()


def test_the_start_is_no_part_of_a_checkpoint_and_frozen_weights_are_not_anchored():
    student = Compressed(nn.Linear(3, 2), {})
    student.model.weight.requires_grad_(False)
    anchor = Anchor(student, strength=1.0)
    assert anchor.state_dict() == {}
    assert anchor.names == ["model.bias"]


def test_a_strong_anchor_keeps_the_weights_near_where_they_were():
    def moved(strength: float) -> float:
        weights = fit_steps(student(), data(), Recipe(anchor=strength), SCHEDULE, 30).weights
        return sum(float((weights[n] - w).detach().square().sum()) for n, w in student().module.named_parameters())

    assert moved(1000) < moved(10) < moved(0)
    assert moved(1e6) < 0.1 * moved(0)


def test_rows_differ_from_the_default_in_one_part():
    default = replace(RECIPES["imitation"], about="")
    assert default == Recipe()
    for name, recipe in RECIPES.items():
        changed = {key for key, value in recipe.parts().items() if value != default.parts()[key]}
        assert changed - {"rate"} == set() if name == "imitation" else len(changed - {"rate"}) == 1, name


def test_a_recipe_is_found_by_name_shipped_file_or_path(tmp_path: Path):
    assert find_recipe("margin") is RECIPES["margin"]
    assert {"int8", "careful"} <= set(shipped_recipes())
    assert find_recipe("int8").loss == "margin"
    own = tmp_path / "mine.yaml"
    own.write_text("loss: hinge\noptions: {margin: 2}\nfree: responsible:3\nrate: 1e-1\nreplay: null\n")
    assert find_recipe(str(own)) == Recipe("hinge", {"margin": 2.0}, "responsible:3", rate=0.1)


@pytest.mark.parametrize("name", ALL)
def test_the_parts_of_a_recipe_written_to_a_file_are_the_recipe(name: str, tmp_path: Path):
    from omegaconf import OmegaConf

    path = tmp_path / "again.yaml"
    OmegaConf.save(OmegaConf.create(ALL[name].parts()), path)
    assert read_recipe(path) == replace(ALL[name], about="")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("los: hinge", r"wrong\.yaml is wrong: unknown key los; did you mean loss\?"),
        ("loss: hing", "loss must be one of imitation, .*got 'hing'"),
        ("loss: hinge\noptions: {margn: 1}", r"unknown option of the loss hinge: margn; did you mean margin\?"),
        ("options: {margin: 1}", "unknown option of the loss imitation: margin; known are none"),
        ("options: 3", "options must be keys and values, got 3"),
        ("loss: hinge\noptions: {margin: -1}", "options.margin must be a number of at least 0, got -1"),
        ("loss: 3", "loss must be a word, got 3"),
        ("free: first", "free must be one of all, last, bias, responsible:k"),
        ("anchor: much", "anchor must be a number, got 'much'"),
        ("anchor: -1", "anchor must be a number of at least 0, got -1"),
        ("anchor: .nan", "anchor must be a number of at least 0, got nan"),
        ("rate: 0", "rate must be a number above 0, got 0"),
        ("replay: 2", r"replay must be a number in \[0, 1\], got 2"),
        ("balance: even", "balance must be one of none, pairs, clusters, got 'even'"),
        ("optimizer: lion", "optimizer must be one of adam, sgd, adamw"),
        ("schedule: linear", "schedule must be one of cosine, constant"),
        ("- loss", "expected keys and values in the recipe"),
        ("", "expected keys and values in the recipe"),
        ("loss: [", "expected YAML in the recipe"),
    ],
)
def test_a_wrong_recipe_file_is_refused_in_one_sentence(content: str, words: str, tmp_path: Path):
    path = tmp_path / "wrong.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=words) as caught:
        find_recipe(str(path))
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_is_answered_with_the_nearest_one(tmp_path: Path):
    with pytest.raises(
        InputError, match=r"must be one of imitation, .*int8, or a \.yaml file, got 'imitate'; did you mean"
    ):
        find_recipe("imitate")
    with pytest.raises(InputError, match=r"found none at .*nowhere\.yaml"):
        find_recipe(str(tmp_path / "nowhere.yaml"))
