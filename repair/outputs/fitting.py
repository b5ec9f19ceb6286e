"""Heads learnt from what both models said of the same images, as the plain arrays of a `Head`."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC

from dflare.errors import InputError
from repair.outputs.head import FLOOR, IDENTITY, Head, Labels, Scores, features
from repair.outputs.residual import ITERATIONS, learn_residual, learn_shift
from repair.outputs.tree import learn_tree

HIDDEN = 50
"""Units of a layer of ReLUs: DFLARE's released code (Tian et al., TOSEM 2023)."""

PASSES = 200
"""Passes over the images that the MLP takes at most: scikit-learn's default, as in DFLARE's released code."""

NEVER = 2 * FLOOR
"""Vote for a class that no image to learn from had, below all others; finite, so that it can be checked."""


class Fit(NamedTuple):
    """A head and what it took."""

    head: Head
    steps: int  # passes over the images (mlp), iterations (svm, shift, residual), 1 (tree); 0: nothing was learnt


class Lesson(NamedTuple):
    """What a head learns from, side by side."""

    values: Scores  # (n, classes), `features` of the compressed model's scores
    labels: Labels  # (n,) what the head is to say; `classes`: to keep what the model says
    targets: Scores  # (n, classes) the original's probabilities
    seed: int
    steps: int | None  # to take, None: until nothing changes, within the learner's own limit


def fit_head(
    kind: str, scores: Scores, targets: Scores, *, seed: int = 0, keep: bool = True, steps: int | None = None
) -> Fit:
    """A head of a kind of `LEARNERS` that corrects the compressed model's scores to what the original says.

    `scores` and `targets` are (n, classes), the former such that their softmax gives the probabilities, the latter the
    original's probabilities. With `keep` a head learns the original's label where the two models differ and to keep
    the model's answer where they agree; without, as DFLARE does, it learns the label everywhere. With `steps` the MLP
    takes exactly so many passes over the images. Where the compressed model says every label already (and may keep it),
    and where there are not two labels to tell apart, the head is `IDENTITY` after 0 steps: what is right stays.
    Raises `InputError` for an unknown kind.
    """
    if kind not in LEARNERS:
        raise InputError(f"a head must be one of {', '.join(LEARNERS)}, got {kind!r}")
    if scores.shape != targets.shape:
        raise ValueError(f"targets must be {scores.shape}, like the scores, got {targets.shape}")
    own, wanted = scores.argmax(-1), targets.argmax(-1)
    labels = np.where(own == wanted, scores.shape[1], wanted) if keep else wanted
    right = keep and bool((own == wanted).all())
    if right or (kind in ("mlp", "svm") and len(np.unique(labels)) < 2):
        return Fit(IDENTITY, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the budget says when it ends
        return LEARNERS[kind](Lesson(features(np.asarray(scores, np.float32)), labels, targets, seed, steps))


def _mlp(lesson: Lesson) -> Fit:
    exact = {} if lesson.steps is None else {"max_iter": lesson.steps, "n_iter_no_change": lesson.steps + 1}
    options: dict[str, Any] = {"max_iter": PASSES, "random_state": lesson.seed} | exact
    scaling, inputs = _scaled(lesson.values)
    model = MLPClassifier((HIDDEN,), **options).fit(inputs, lesson.labels)
    (first, second), (start, end) = model.coefs_, model.intercepts_
    weight, bias = _spread(second, end, model.classes_, lesson)
    layers = {"weight_0": first, "bias_0": start, "weight_1": weight, "bias_1": bias}
    return Fit(Head("mlp", scaling | _single(layers)), int(model.n_iter_))


def _svm(lesson: Lesson) -> Fit:
    scaling, inputs = _scaled(lesson.values)
    model = LinearSVC(dual=False, random_state=lesson.seed).fit(inputs, lesson.labels)
    weight, bias = _spread(model.coef_.T, model.intercept_, model.classes_, lesson)
    return Fit(Head("linear", scaling | _single({"weight": weight, "bias": bias})), int(model.n_iter_))


def _tree(lesson: Lesson) -> Fit:
    return Fit(learn_tree(lesson.values, lesson.labels, lesson.seed), 1)


def _shift(lesson: Lesson) -> Fit:
    scaling, inputs = _scaled(lesson.values)
    learnt = learn_shift(lesson.values, inputs, lesson.targets, lesson.steps or ITERATIONS)
    return Fit(Head("shift", scaling | learnt.arrays), learnt.steps)


def _residual(lesson: Lesson) -> Fit:
    scaling, inputs = _scaled(lesson.values)
    learnt = learn_residual(
        lesson.values, inputs, lesson.targets, lesson.steps or ITERATIONS, hidden=HIDDEN, seed=lesson.seed
    )
    return Fit(Head("residual", scaling | learnt.arrays), learnt.steps)


LEARNERS: dict[str, Callable[[Lesson], Fit]] = {
    "mlp": _mlp,
    "svm": _svm,
    "tree": _tree,
    "shift": _shift,
    "residual": _residual,
}
"""What there is to learn -> how; the first three are DFLARE's."""


def _scaled(values: Scores) -> tuple[dict[str, Scores], Scores]:
    """Mean and standard deviation of each feature (1 for one that never changes), and the features so scaled."""
    spread = values.std(0, dtype=np.float64)
    scale = np.where(spread > 1e-6, spread, 1).astype(np.float32)  # features reach 16: float32 has no finer steps
    mean = values.mean(0, dtype=np.float64).astype(np.float32)
    return {"mean": mean, "scale": scale}, (values - mean) / scale


def _spread(
    weight: NDArray[np.float64], bias: NDArray[np.float64], known: Labels, lesson: Lesson
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight (inputs, known) and bias (known,) for all classes, and for "keep" where that is a label.

    Of two labels scikit-learn has one column, the second's against the first's.
    """
    if weight.shape[1] == 1:
        weight, bias = np.hstack([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    width = max(lesson.values.shape[1], int(known.max()) + 1)
    whole, ends = np.zeros((len(weight), width)), np.full(width, NEVER * (1 + np.abs(bias).max()))
    whole[:, known], ends[known] = weight, bias
    return whole, ends


def _single(arrays: Mapping[str, NDArray[np.float64]]) -> dict[str, Scores]:
    return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
