"""Decision trees of scikit-learn as heads: float32 thresholds that sort every image as scikit-learn does."""

import numpy as np
from numpy.typing import NDArray
from sklearn.tree import DecisionTreeClassifier

from repair.outputs.head import Head, Labels, Scores

LEAST_LEAF = 20
"""Images in a leaf: fewer say where one image happened to lie; more find less."""


def learn_tree(values: Scores, labels: Labels, seed: int) -> Head:
    """A decision tree from features (n, classes) to labels (n,)."""
    least = min(LEAST_LEAF, max(1, len(values) // 50))
    model = DecisionTreeClassifier(min_samples_leaf=least, random_state=seed).fit(values, labels)
    tree = model.tree_
    nodes, leaf = np.arange(tree.node_count), tree.children_left < 0
    feature = np.where(leaf, 0, tree.feature)
    arrays = {
        "feature": feature,
        "left": np.where(leaf, nodes, tree.children_left),
        "right": np.where(leaf, nodes, tree.children_right),
        "label": model.classes_[tree.value[:, 0].argmax(-1)],
    }
    threshold = _at_the_top(_below(np.where(leaf, 0, tree.threshold)), feature, values)
    return Head("tree", {name: array.astype(np.int32) for name, array in arrays.items()} | {"threshold": threshold})


def _below(thresholds: NDArray[np.float64]) -> Scores:
    """The greatest float32 at or below each threshold: float32 features fall on the same side of it."""
    rounded = thresholds.astype(np.float32)
    return np.where(rounded > thresholds, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def _at_the_top(thresholds: Scores, feature: NDArray[np.int64], values: Scores) -> Scores:
    """Thresholds moved up to just below 0 where no value learnt from lies between: they ask "is it the top class?".

    No image learnt from changes sides. Others do whose top two classes are nearer to each other than any of those.
    """
    negative = np.where(values < 0, values, -np.inf).max(0)  # of each feature the greatest that is not the top
    top = (thresholds >= negative[feature]) & (thresholds < 0)
    return np.where(top, -np.finfo(np.float32).tiny, thresholds).astype(np.float32)
