"""Data sets in `.npz` and `.npy` files: which array is what, which way its dimensions go, and its grey levels."""

import math
from pathlib import Path

import numpy as np

from dflare.errors import InputError
from experiments.array_files import Stored, look_into
from experiments.folders import TESTS, TRAIN
from experiments.images import Pixels
from experiments.labels import Column, number
from experiments.memory import check_memory
from experiments.readers import Arrays

ENDINGS = (".npz", ".npy")
IMAGES = ("images", "x", "data")
LABELS = ("labels", "label", "y", "targets")
"""What arrays are called, in either case; with train_, test_ or val_ before it, or _train, _test or _val after it."""

OFF_GRID = 1e-3
"""How far floats in [0, 1] may lie from a multiple of 1/255, half way between two of which is 0.002."""


def read_arrays(root: Path) -> Arrays:
    """Images and labels from a `.npz` file, a `.npy` file, or a folder with one `.npz` or with several `.npy` files.

    Names as Keras has them (x_train, y_train, x_test, y_test), MedMNIST (train_images, train_labels, …) or plain
    (images, labels), see `IMAGES`; in `.npy` files the files' names. A single array is images without labels. The
    labels of a lone `.npy` file may lie beside it in labels.npy or <its name>_labels.npy.
    Images are (n, h, w), (n, h, w, c) or (n, c, h, w) with 1 or 3 channels, uint8 or floats in [0, 1] that are
    grey levels / 255; labels are (n,) or (n, 1), see `labels.number`.
    Raises `InputError` for anything else and for what could be read in two ways.
    """
    stored = _stored(root)
    splits = _splits(stored, root)
    images = [_pixels(stored[image]) for image, _ in splits]
    columns = [
        None if label is None else _column(stored[label], len(pixels))
        for pixels, (_, label) in zip(images, splits, strict=True)
    ]
    names, labels = number(*columns)
    if len(images) == 1:
        return Arrays(names, images[0], labels[0])
    return Arrays(names, images[0], labels[0], images[1], labels[1])


def _stored(root: Path) -> dict[str, Stored]:
    """The arrays by name."""
    if root.is_dir():
        packed, plain = (sorted(root.glob(f"*{ending}")) for ending in ENDINGS)
        if len(packed) + bool(plain) != 1:
            raise InputError(
                f"expected one .npz file, or .npy files only, in {root} (data.root), got {len(packed)} and "
                f"{len(plain)}; name the file in data.root"
            )
        return {name: array for path in packed or plain for name, array in look_into(path).items()}
    if not root.is_file() or root.suffix.lower() not in ENDINGS:
        raise InputError(f"expected a .npz or .npy file at {root} (data.root), found none")
    stored = look_into(root)
    if root.suffix.lower() == ".npy":
        stored = {"images": stored[root.stem]}
        beside = [root.with_name(name) for name in (f"{root.stem}_labels.npy", "labels.npy")]
        labels = next((path for path in beside if path.is_file() and path != root), None)
        if labels is not None:
            stored["labels"] = look_into(labels)[labels.stem]
    return stored


def _splits(stored: dict[str, Stored], root: Path) -> list[tuple[str, str | None]]:
    """Names of images and labels, of the training split and of the test split where there is one."""
    if len(stored) == 1:
        return [(next(iter(stored)), None)]
    found = {split: _named(stored, IMAGES, split, root) for split in ("", TRAIN, *TESTS)}
    splits = [(split, name) for split, name in found.items() if name is not None]
    if not splits or (splits[0][0] == "" and len(splits) > 1):
        raise InputError(
            f"expected arrays images and labels, or x_train, y_train, x_test and y_test, in {root}, "
            f"got {', '.join(stored) or 'none'}"
        )
    used = splits[:2] if splits[0][0] == TRAIN else splits[:1]
    return [(name, _named(stored, LABELS, split, root)) for split, name in used]


def _named(stored: dict[str, Stored], names: tuple[str, ...], split: str, root: Path) -> str | None:
    """The one array that bears one of some names, for a split; None where there is none."""
    wanted = {form for name in names for form in ((f"{split}_{name}", f"{name}_{split}") if split else (name,))}
    fitting = [name for name in stored if name.lower() in wanted]
    if len(fitting) > 1:
        raise InputError(f"expected one of the arrays {' and '.join(fitting)} in {root}, got both; take one away")
    return fitting[0] if fitting else None


def _pixels(stored: Stored) -> Pixels:
    """Images of any accepted layout and type as uint8 (n, c, h, w)."""
    channels_last = _channels_last(stored)
    grey = len(stored.shape) == 3
    if stored.dtype != np.uint8 and stored.dtype.kind != "f":
        raise InputError(
            f"images must be uint8, or floats in [0, 1], got {stored.dtype} in {stored.name}; "
            "if they are grey levels from 0 to 255, save them with .astype('uint8')"
        )
    mapped = stored.mapped() if stored.dtype == np.uint8 and not channels_last else None
    if mapped is not None:
        return mapped[:, None] if grey else mapped
    check_memory(math.prod(stored.shape), stored.name)
    if stored.fortran:
        check_memory(math.prod(stored.shape) * stored.dtype.itemsize, stored.name)  # it is read at once
    n, *sides = stored.shape
    shape = (1, *sides) if grey else (sides[2], sides[0], sides[1]) if channels_last else tuple(sides)
    pixels, row = np.empty((n, *shape), np.uint8), 0
    for block in stored.blocks():
        levels = block if block.dtype == np.uint8 else _levels(block, stored.name)
        pixels[row : row + len(block)] = (
            levels[:, None] if grey else levels.transpose(0, 3, 1, 2) if channels_last else levels
        )
        row += len(block)
    return pixels


def _channels_last(stored: Stored) -> bool:
    """Whether the images are (n, h, w, c); raises `InputError` for shapes that are no images, or not surely which."""
    shape, channels = stored.shape, (1, 3)
    expected = f"images must be (n, h, w), (n, h, w, c) or (n, c, h, w) with 1 or 3 channels, got {shape}"
    if len(shape) not in (3, 4) or 0 in shape:
        raise InputError(f"{expected} in {stored.name}")
    if len(shape) == 3:
        if shape[0] in channels or shape[2] in channels or shape[2] == 4 != shape[1]:  # four: with transparency
            raise InputError(f"{expected} in {stored.name}, which may be a single image; save it as (n, h, w, c)")
        return False
    first, last = shape[1] in channels, shape[3] in channels
    if first and last:
        raise InputError(f"{expected} in {stored.name}, where either may be the channels; save them as (n, h, w)")
    if not first and not last:
        raise InputError(f"{expected} in {stored.name}")
    return last


def _levels(values: np.ndarray, name: str) -> np.ndarray:
    """Floats in [0, 1] as the grey levels that they are 255ths of."""
    low, high = float(values.min()), float(values.max())
    if not (low >= -OFF_GRID and high <= 1 + OFF_GRID):  # nor with NaN
        raise InputError(
            f"floats must be images in [0, 1], got values from {low:g} to {high:g} in {name}; save them as uint8"
        )
    exact = values.astype(np.float64) * 255
    whole = np.rint(exact)
    farthest = int(np.abs(exact - whole).argmax())
    if abs(exact.flat[farthest] - whole.flat[farthest]) > OFF_GRID * 255:
        raise InputError(
            f"floats must be grey levels / 255, got {float(values.flat[farthest]):g} in {name}, which is between two; "
            "round them and save them as uint8"
        )
    return whole.clip(0, 255).astype(np.uint8)


def _column(stored: Stored, count: int) -> Column:
    """Labels of `count` images."""
    shape = stored.shape[:1] if stored.shape[1:] == (1,) else stored.shape
    if shape != (count,) or stored.dtype.kind not in "iuU":
        raise InputError(
            f"labels must be whole numbers or names ({count},), one an image, got {stored.dtype} {stored.shape} "
            f"in {stored.name}"
        )
    return Column(stored.read().reshape(count), stored.name)
