"""What the arrays of a head must be: names, types, shapes and numbers."""

from collections.abc import Callable, Iterator

import numpy as np

from dflare.errors import InputError
from repair.outputs.head import Arrays, Head

REAL, WHOLE = np.dtype(np.float32), np.dtype(np.int32)

_SCALED = {"mean": "c", "scale": "c"}
_NODES = {"feature": "n", "left": "n", "right": "n", "label": "n", "threshold": "n"}

SHAPES: dict[str, dict[str, str]] = {
    "identity": {},
    "linear": _SCALED | {"weight": "co", "bias": "o"},
    "mlp": _SCALED | {"weight_0": "ch", "bias_0": "h", "weight_1": "ho", "bias_1": "o"},
    "tree": _NODES,
    "shift": _SCALED | {"weight": "cc", "bias": "c"},
    "residual": _SCALED | {"weight_0": "ch", "bias_0": "h", "weight_1": "hc", "bias_1": "c"},
}
"""Kind of head -> its arrays with a letter for each dimension: c classes, h hidden units, n nodes, o classes with or
without one more, which keeps what the model says."""


def check_head(head: Head, where: str, classes: int | None = None) -> Head:
    """The head, if its arrays are what its kind needs; raises `InputError`, with `where` in it, if not.

    `classes` is how many the model in front of it tells apart, None where that is not known.
    """
    for problem in _problems(head, classes):
        raise InputError(f"expected a head of an output repair in {where}, but {problem}")
    return head


def _problems(head: Head, classes: int | None) -> Iterator[str]:
    if head.kind not in SHAPES:
        yield f"its kind must be one of {', '.join(SHAPES)}, got {head.kind!r}"
        return
    shapes = SHAPES[head.kind]
    if set(shapes) != set(head.arrays):
        named, found = ", ".join(sorted(shapes)) or "none", ", ".join(sorted(head.arrays)) or "none"
        yield f"the arrays of the kind {head.kind} must be {named}, got {found}"
        return
    sizes: dict[str, int] = {} if classes is None or head.kind == "tree" else {"c": classes}
    for name, letters in shapes.items():
        yield from _array_problems(name, head.arrays[name], letters, sizes)
    yield from _VALUES[head.kind](head.arrays, classes)


def _array_problems(name: str, array: np.ndarray, letters: str, sizes: dict[str, int]) -> Iterator[str]:
    wanted = WHOLE if letters == "n" and name != "threshold" else REAL
    if array.dtype != wanted:
        yield f"{name} must be {wanted}, got {array.dtype}"
    if array.ndim != len(letters) or not array.size:
        yield f"{name} must have {len(letters)} dimensions and a value, got shape {array.shape}"
        return
    known = tuple(sizes.setdefault(letter, size) for letter, size in zip(letters, array.shape, strict=True))
    if known != array.shape:
        yield f"{name} must have the shape {known}, got {array.shape}"
    if sizes.get("o", sizes.get("c")) not in (sizes.get("c"), sizes.get("c", 0) + 1):
        yield f"{name} must be for {sizes['c']} classes or one more, got {sizes['o']}"
    if not np.isfinite(array).all():
        yield f"{name} must be finite"


def _no_values(arrays: Arrays, classes: int | None) -> Iterator[str]:
    yield from ()


def _scaled_values(arrays: Arrays, classes: int | None) -> Iterator[str]:
    if len(arrays["mean"]) < 2:
        yield f"it must tell two classes or more apart, got {len(arrays['mean'])}"
    if not (np.asarray(arrays["scale"]) > 0).all():
        yield "scale must be above 0"


def _tree_values(arrays: Arrays, classes: int | None) -> Iterator[str]:
    """A child stands behind its parent, which ends every walk; a leaf is its own two children."""
    nodes = np.arange(len(arrays["left"]))
    left, right = np.asarray(arrays["left"]), np.asarray(arrays["right"])
    inner = (left > nodes) & (right > nodes)
    leaf = (left == nodes) & (right == nodes)
    if not (inner | leaf).all() or max(left.max(), right.max()) >= len(nodes):
        yield "left and right must lead from each node to two further ones, or from a leaf to itself"
    most = {} if classes is None else {"feature": classes - 1, "label": classes}  # the label `classes`: keep
    for name in ("feature", "label"):
        values = np.asarray(arrays[name])
        if values.min() < 0 or values.max() > most.get(name, values.max()):
            yield f"{name} must be from 0 to {most.get(name, '…')}, got {values.min()} to {values.max()}"


_VALUES: dict[str, Callable[[Arrays, int | None], Iterator[str]]] = {
    "identity": _no_values,
    "linear": _scaled_values,
    "mlp": _scaled_values,
    "tree": _tree_values,
    "shift": _scaled_values,
    "residual": _scaled_values,
}
