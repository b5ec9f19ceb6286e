"""The methods as recipes: who imitates whom, which iteration is kept, and that a seed repeats."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dflare.errors import InputError
from repair.data import Examples
from repair.outputs.recipes import recipe_parts
from repair.search_based import fitting
from repair.search_based.fitting import METHODS, Task, fit_search
from repair.search_based.recipes import SEARCH_RECIPES
from repair.search_based.retraining import lesson, nearest_behaviour, scores_of
from repair.search_based.sample import NEGATIVES, draw
from repair.trainable import Trainable
from tests.repair.search_based.planted import Hidden, opened, parted, shown


def wrong(path: Path) -> Trainable:
    """The network with a channel that is twice as large as it should be."""
    network = Hidden()
    with torch.no_grad():
        network.conv.weight[2] *= 2
    return opened(network, path)


def task(trainable: Trainable, steps: int) -> Task:
    negative, _ = parted(trainable, shown(Hidden(), 300, 0))
    return Task(trainable, negative, shown(Hidden(), 200, 1), steps, 32, 0.5, 0.02, 0)


def test_a_negative_imitates_the_nearest_positive_that_is_called_what_it_should_be():
    negative, positive = torch.tensor([[0.0, 0.0], [5.0, 5.0]]), torch.tensor([[0.25, 0.0], [9.0, 0.0], [0.0, 4.0]])
    said = torch.tensor([0, 0, 1])
    found = nearest_behaviour(negative, torch.tensor([1, 0]), positive, said)
    assert found.tolist() == [[0.0, 4.0], [9.0, 0.0]]  # row 0: the nearest of all, 0.25 away, is of the wrong class
    any_class = nearest_behaviour(negative, torch.tensor([7, 7]), positive, said)
    assert any_class.tolist() == [[0.25, 0.0], [0.0, 4.0]]


def test_the_targets_of_row_i_belong_to_row_i(tmp_path):
    trainable = wrong(tmp_path / "model.pt2")
    given = task(trainable, 1)
    triggers, clean = lesson(trainable, given.triggers, given.clean)
    assert torch.equal(triggers.targets.argmax(-1), given.triggers.targets.argmax(-1))
    assert torch.equal(clean.targets, scores_of(trainable, clean))
    rows = torch.randperm(len(given.triggers), generator=torch.Generator().manual_seed(0))
    turned = Examples(given.triggers.images[rows], given.triggers.targets[rows])
    assert torch.equal(lesson(trainable, turned, given.clean)[0].targets, triggers.targets[rows])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["birdnn-retrain", "birdnn-finetune"])
def test_a_method_repairs_and_its_seed_repeats(method, tmp_path):
    fresh = shown(Hidden(), 200, 2)
    validate = parted(wrong(tmp_path / "a.pt2"), shown(Hidden(), 200, 3))
    results = []
    for _ in range(2):
        trainable = wrong(tmp_path / "a.pt2")
        results.append(fit_search(method, task(trainable, 12), validate, 4))
    first, again = results
    assert first.steps == again.steps > 0
    assert all(torch.equal(weight, again.weights[name]) for name, weight in first.weights.items())
    trainable.write(first.weights, tmp_path / "b.pt2")
    trainable.check(tmp_path / "b.pt2")
    before, after = (_agreement(tmp_path / name, fresh) for name in ("a.pt2", "b.pt2"))
    assert after > before + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_exactly_so_many_steps_from_what_an_earlier_search_named(method, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "CYCLE", (2, 1))
    trainable = wrong(tmp_path / "a.pt2")
    first = fit_search(method, task(trainable, 4))
    assert first.steps == 4
    assert first.free
    seeds = shown(Hidden(), len(task(trainable, 4).triggers), 9)
    placebo = fit_search(method, replace(task(wrong(tmp_path / "a.pt2"), 4), triggers=seeds, free=first.free))
    assert placebo.free == first.free


def test_each_half_of_birdnn_goes_on_where_the_other_stopped(tmp_path, monkeypatch):
    """Two batches of retraining, one iteration of the swarm, then the third batch; a half never starts anew."""
    monkeypatch.setattr(fitting, "CYCLE", (2, 1))
    began, tuned, retrained, fine_tune = [], [], fitting.retrained, fitting.fine_tune

    def noted(trainable, mixture, rate, start=0):
        began.append(start)
        return retrained(trainable, mixture, rate, start)

    def from_here(trainable, *given):
        tuned.append({name: weight.detach().clone() for name, weight in trainable.module.named_parameters()})
        return fine_tune(trainable, *given)

    monkeypatch.setattr(fitting, "retrained", noted)
    monkeypatch.setattr(fitting, "fine_tune", from_here)
    trainable = wrong(tmp_path / "a.pt2")
    fit_search("birdnn", task(trainable, 4))
    alone = fit_search("birdnn-retrain", task(wrong(tmp_path / "b.pt2"), 2)).weights
    assert began == [0, 2, 0]
    assert all(torch.equal(tuned[1][name], weight) for name, weight in alone.items())


def test_weights_that_break_what_was_right_are_not_kept(tmp_path):
    """The wrong case: triggers that the original itself would not agree to, on a model that is right everywhere."""
    trainable = opened(Hidden(), tmp_path / "a.pt2")
    images = shown(Hidden(), 100, 0)
    lies = Examples(images.images, images.targets.roll(1, 1))
    given = Task(trainable, lies, shown(Hidden(), 200, 1), 10, 32, 0.5, 0.02, 0)
    validate = Examples(lies.images[:0], lies.targets[:0]), shown(Hidden(), 500, 3)
    fitted = fit_search("birdnn-retrain", given, validate, 5)
    assert (fitted.steps, fitted.score) == (0, 1.0)


def test_triggers_and_clean_images_count_alike_on_the_validate_side(tmp_path):
    """Before any step none of the triggers agrees and all of the others do, however many there are of each."""
    trainable = wrong(tmp_path / "a.pt2")
    validate = parted(trainable, shown(Hidden(), 200, 3))
    assert len(validate[0]) != len(validate[1])
    fitted = fit_search("birdnn-retrain", task(trainable, 0), validate, 5)
    assert (fitted.steps, fitted.score) == (0, 0.5)


def test_positives_are_images_on_which_the_pair_agrees(tmp_path):
    trainable = wrong(tmp_path / "a.pt2")
    given = task(trainable, 1)
    sample = draw(trainable, given.triggers, given.clean, torch.Generator().manual_seed(0))
    assert not len(parted(trainable, sample.positive)[0])
    assert len(sample.negative) == min(NEGATIVES, len(given.triggers))
    with pytest.raises(InputError, match="needs clean train images on which the two models agree, found none"):
        draw(trainable, given.triggers, given.triggers, torch.Generator().manual_seed(0))


def test_recipes_are_known_by_name():
    assert {recipe.method for recipe in SEARCH_RECIPES.values()} == set(METHODS)
    assert all(recipe.about for recipe in SEARCH_RECIPES.values())
    assert recipe_parts("arachne") == {"method": "arachne", "steps": 100, "rate": 1.0}
    with pytest.raises(InputError, match="did you mean arachne"):
        recipe_parts("aracne")


def _agreement(path: Path, examples: Examples) -> float:
    from repair.opening import open_trainable

    return float((scores_of(open_trainable(path), examples).argmax(-1) == examples.targets.argmax(-1)).float().mean())
