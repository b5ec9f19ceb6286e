"""Heads behind a closed model: what they learn, and answers that are known beforehand."""

from functools import cache

import numpy as np
import pytest

from dflare.errors import InputError
from repair.outputs.fitting import LEARNERS, Fit, fit_head
from repair.outputs.head import FLOOR, IDENTITY, RULES, Head, features, one_up
from repair.outputs.recipes import OUTPUT_RECIPES

CLASSES = 5
SWAP = np.array([0, 3, 2, 1, 4])
"""Classes 1 and 3 take each other's place."""


def random_scores(seed: int, count: int = 600) -> np.ndarray:
    """Scores like a network's, (n, classes) float32."""
    return (np.random.default_rng(seed).normal(size=(count, CLASSES)) * 4).astype(np.float32)


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Softmax, (n, classes) float32."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def learn_swap(kind: str, keep: bool = True) -> Fit:
    """A head for a model that takes class 1 for 3 and 3 for 1."""
    scores = random_scores(0)
    return fit_head(kind, scores[:, SWAP], probabilities(scores), keep=keep)


swapped = cache(learn_swap)
"""The same, learnt once."""


@pytest.mark.parametrize("keep", [True, False])
def test_a_tree_repairs_two_swapped_classes_exactly(keep: bool):
    scores = random_scores(1, 5000)
    answers = swapped("tree", keep).head(scores[:, SWAP])
    assert (answers.argmax(-1) == scores.argmax(-1)).all()
    assert np.array_equal(np.sort(answers), np.sort(scores))  # exchanged, and no number made up


@pytest.mark.parametrize("kind", LEARNERS)
def test_every_head_repairs_most_of_two_swapped_classes(kind: str):
    scores = random_scores(1)
    before = (scores[:, SWAP].argmax(-1) == scores.argmax(-1)).mean()
    after = (swapped(kind).head(scores[:, SWAP]).argmax(-1) == scores.argmax(-1)).mean()
    assert after > before + 0.1


def test_a_shift_finds_a_bias_that_compression_left():
    scores, bias = random_scores(0), np.array([0, 2, 0, 0, -1], np.float32)
    head = fit_head("shift", scores + bias, probabilities(scores)).head
    other = random_scores(1)
    assert (head(other + bias).argmax(-1) == other.argmax(-1)).mean() > 0.98
    assert ((other + bias).argmax(-1) == other.argmax(-1)).mean() < 0.85


@pytest.mark.parametrize("kind", LEARNERS)
def test_a_head_that_learns_from_agreeing_models_changes_nothing(kind: str):
    scores = random_scores(0)
    found = fit_head(kind, scores, probabilities(scores * 0.9))
    assert found == Fit(IDENTITY, 0)
    assert found.head(random_scores(1)).tobytes() == random_scores(1).tobytes()


@pytest.mark.parametrize("kind", LEARNERS)
def test_the_same_images_and_seed_give_the_same_head(kind: str):
    first, second = swapped(kind).head, learn_swap(kind).head
    assert {name: array.tobytes() for name, array in first.arrays.items()} == {
        name: array.tobytes() for name, array in second.arrays.items()
    }


def test_a_head_that_may_not_keep_names_a_label_and_a_tie_is_decided():
    scores = np.array([[0, 0, -1, -2, -3], [0, -1, -2, -3, -4]], np.float32)
    answers = one_up(scores, np.array([1, 0]))
    assert answers[0].argmax() == 1
    assert answers[0, 1] > answers[0, 0]  # a lead, small but strict
    assert answers[0, 1] - answers[0, 0] < 1e-4
    assert np.array_equal(answers[1], scores[1])
    assert np.array_equal(one_up(scores, np.array([5, 5])), scores)  # to keep is to keep the tie as well


def test_the_label_named_takes_the_place_of_the_top_class():
    answers = one_up(np.array([[3, 1, 2]], np.float32), np.array([1]))
    assert answers.tolist() == [[1, 3, 2]]


def test_features_are_relative_logarithms_and_nothing_is_infinite():
    found = features(np.array([[2, 1, -np.inf], [0, -100, 0]], np.float32))
    assert found.tolist() == [[0, -1, FLOOR], [0, FLOOR, 0]]


@pytest.mark.parametrize("kind", LEARNERS)
def test_classes_that_no_image_had_are_never_said(kind: str):
    scores = random_scores(0)
    scores[:, 4] = -20
    wrong = scores.copy()
    wrong[:, [0, 1]] = scores[:, [1, 0]]
    head = fit_head(kind, wrong, probabilities(scores)).head
    assert set(head(wrong).argmax(-1).tolist()) <= {0, 1, 2, 3}


@pytest.mark.parametrize("kind", ["mlp", "svm", "tree"])
def test_two_labels_are_enough(kind: str):
    scores = random_scores(0)
    scores[:, 2:] -= 50
    head = fit_head(kind, scores[:, [1, 0, 2, 3, 4]], probabilities(scores), keep=False).head
    answers = head(scores[:, [1, 0, 2, 3, 4]]).argmax(-1)
    assert (answers == scores.argmax(-1)).mean() > 0.97


@pytest.mark.parametrize("kind", ["mlp", "svm", "tree"])
def test_one_label_is_nothing_to_tell_apart_but_for_a_tree(kind: str):
    scores = random_scores(0, 20)
    everything = np.full_like(scores, 0.01)
    everything[:, 2] = 0.96
    head = fit_head(kind, scores, everything, keep=False).head
    assert head.kind == ("tree" if kind == "tree" else "identity")
    if kind == "tree":
        assert (head(scores).argmax(-1) == 2).all()


def test_an_mlp_takes_as_many_passes_as_it_is_told():
    scores = random_scores(0, 100)
    assert fit_head("mlp", scores[:, SWAP], probabilities(scores), steps=7).steps == 7


def test_the_tree_sorts_as_scikit_learn_does():
    from sklearn.tree import DecisionTreeClassifier

    from repair.outputs.tree import learn_tree

    values = features(random_scores(0, 3000))
    labels = np.random.default_rng(0).integers(0, 3, len(values))
    head, model = learn_tree(values, labels, 0), DecisionTreeClassifier(min_samples_leaf=20, random_state=0)
    assert (head(values).argmax(-1) == model.fit(values, labels).predict(values)).all()


def test_a_head_that_may_not_keep_learns_from_agreeing_models_too():
    scores = random_scores(0)
    assert fit_head("tree", scores, probabilities(scores), keep=False).head.kind == "tree"


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match="a head must be one of mlp, svm, tree, shift, residual, got 'forest'"):
        fit_head("forest", random_scores(0), random_scores(0))


def test_every_recipe_names_a_learner_and_every_head_has_a_rule():
    assert {recipe.head for recipe in OUTPUT_RECIPES.values()} == set(LEARNERS)
    assert {swapped(kind).head.kind for kind in LEARNERS} | {"identity"} == set(RULES)
    assert all(recipe.about for recipe in OUTPUT_RECIPES.values())


def test_a_tree_that_was_never_asked_does_not_walk_in_circles():
    single = {name: np.zeros(1, np.int32) for name in ("feature", "left", "right", "label")}
    head = Head("tree", single | {"threshold": np.zeros(1, np.float32)})
    assert (head(random_scores(0)).argmax(-1) == 0).all()
