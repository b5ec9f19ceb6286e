"""Labels as people write them, numbered as models count their classes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dflare.errors import InputError

MOST_CLASSES = 100_000
"""More than any published classifier tells apart (ImageNet-21k: 21,841); a greater label is a slip."""


class Column(NamedTuple):
    """The labels of one split as they were written, and the file and key they come from."""

    values: Sequence[str] | np.ndarray
    source: str


def number(*columns: Column | None) -> tuple[tuple[str, ...], list[np.ndarray | None]]:
    """Class names, and the labels int64 (n,) of each split; None stays None.

    Whole numbers (all of them, in every split) are labels already, counted from 0, and name their classes. Anything
    else is a class's name, and the classes are the sorted names of all splits together.
    Raises `InputError` for missing or negative labels, and for numbers of `MOST_CLASSES` or more.
    """
    written = [column for column in columns if column is not None]
    if not written:
        return (), [None for _ in columns]
    if all(_whole(value) for column in written for value in column.values):
        numbered = [None if column is None else _labels(column) for column in columns]
        highest = max(int(labels.max(initial=-1)) for labels in numbered if labels is not None)
        return tuple(str(label) for label in range(highest + 1)), numbered
    for column in written:
        empty = [row for row, value in enumerate(column.values) if not str(value).strip()]
        if empty:
            raise InputError(f"expected a label of every image in {column.source}, entry {empty[0] + 1} has none")
    names = sorted({str(value).strip() for column in written for value in column.values})
    if len(names) > MOST_CLASSES:
        raise InputError(f"expected at most {MOST_CLASSES} classes in {written[0].source}, got {len(names)}")
    places = {name: place for place, name in enumerate(names)}
    return tuple(names), [
        None if column is None else np.array([places[str(value).strip()] for value in column.values], np.int64)
        for column in columns
    ]


def _whole(value: object) -> bool:
    if isinstance(value, int | np.integer):
        return True
    digits = str(value).strip().removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 19  # int64 has 18 in any case


def _labels(column: Column) -> np.ndarray:
    numbers = [int(value) for value in column.values]
    wrong = [label for label in numbers if not 0 <= label < MOST_CLASSES]
    if wrong:
        raise InputError(f"labels in {column.source} must be counted from 0, up to {MOST_CLASSES - 1}, got {wrong[0]}")
    return np.array(numbers, np.int64)
