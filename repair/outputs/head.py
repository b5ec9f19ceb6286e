"""A head: a small classifier behind a compressed model, as plain arrays and the rule that reads them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]
Labels = NDArray[np.int64]
Arrays = Mapping[str, NDArray[Any]]

FLOOR = -16.0
"""Least relative logarithm of a probability that a head looks at: float32 holds no more of a softmax (2**-23)."""

LIFT = 2.0**-16
"""How far the head's label is put above others of the same score, as a share of 1 + |score|: 128 steps of float32."""


@dataclass(frozen=True)
class Head:
    """What corrects the answers of a compressed model: scores (n, classes) float32 to scores (n, classes) float32.

    The scores that come in are such that their softmax gives the probabilities; -inf stands for probability 0. What
    the arrays must be is said by `repair.outputs.checking`; they are taken as right here.
    """

    kind: str  # of `RULES`
    arrays: Arrays

    def __call__(self, scores: Scores) -> Scores:
        return RULES[self.kind](self.arrays, np.ascontiguousarray(scores, np.float32))

    @property
    def payload(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays.values())


IDENTITY = Head("identity", {})
"""The head that changes nothing."""


def features(scores: Scores) -> Scores:
    """Logarithms of the probabilities relative to the greatest, (n, classes) float32 in [`FLOOR`, 0].

    Relative, because a subtraction is exact to the last bit in every runtime, and because the top class then has 0,
    which a tree can ask for.
    """
    return np.maximum(scores - scores.max(-1, keepdims=True), np.float32(FLOOR))


def one_up(scores: Scores, labels: Labels) -> Scores:
    """The scores (n, classes) with those of the top class and of the label (n,) exchanged, so that the label is on top.

    A label of `classes`, one more than there are, means to keep what the model said, and so does that of the only
    class on top. Where another class has the top score too, the label is lifted above it: a head that names a class
    hides no deviation behind a tie.
    """
    rows = np.flatnonzero(labels < scores.shape[1])
    label, answered, some = labels[rows], scores.copy(), np.arange(len(rows))
    chosen = scores[rows]
    top, best = chosen.argmax(-1), chosen.max(-1)
    tied = (chosen == best[:, None]).sum(-1) > 1
    answered[rows, top] = chosen[some, label]
    answered[rows, label] = np.where(tied, best + (1 + np.abs(best)) * np.float32(LIFT), best)
    return answered


def _identity(arrays: Arrays, scores: Scores) -> Scores:
    return scores


def _linear(arrays: Arrays, scores: Scores) -> Scores:
    return one_up(scores, _votes(arrays, scores).argmax(-1))


def _mlp(arrays: Arrays, scores: Scores) -> Scores:
    return one_up(scores, _layers(arrays, scores).argmax(-1))


def _shift(arrays: Arrays, scores: Scores) -> Scores:
    return features(scores) + _votes(arrays, scores)


def _residual(arrays: Arrays, scores: Scores) -> Scores:
    return features(scores) + _layers(arrays, scores)


def _votes(arrays: Arrays, scores: Scores) -> Scores:
    """A linear map of the standardised features, (n, outputs)."""
    return _standardised(arrays, scores) @ arrays["weight"] + arrays["bias"]


def _layers(arrays: Arrays, scores: Scores) -> Scores:
    """A layer of ReLUs and a linear one, (n, outputs)."""
    hidden = np.maximum(_standardised(arrays, scores) @ arrays["weight_0"] + arrays["bias_0"], 0)
    return hidden @ arrays["weight_1"] + arrays["bias_1"]


def _standardised(arrays: Arrays, scores: Scores) -> Scores:
    return np.asarray((features(scores) - arrays["mean"]) / arrays["scale"], np.float32)


def _tree(arrays: Arrays, scores: Scores) -> Scores:
    """What the leaf says that each row falls into; a leaf is a node that is its own child."""
    values, rows = features(scores), np.arange(len(scores))
    node = np.zeros(len(scores), np.int64)
    while True:
        left = values[rows, arrays["feature"][node]] <= arrays["threshold"][node]
        following = np.where(left, arrays["left"][node], arrays["right"][node])
        if (following == node).all():
            return one_up(scores, arrays["label"][node].astype(np.int64))
        node = following


RULES: dict[str, Callable[[Arrays, Scores], Scores]] = {
    "identity": _identity,
    "linear": _linear,
    "mlp": _mlp,
    "tree": _tree,
    "shift": _shift,
    "residual": _residual,
}
"""Kind of head -> its answers (n, classes) to scores (n, classes).

`linear`, `mlp` and `tree` name a label, or keep the model's; `shift` and `residual` add to its scores what a linear map
or a layer of ReLUs says of them.
"""
