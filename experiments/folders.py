"""Image files in folders: which of them are images, which folders are splits and which are classes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dflare.errors import InputError
from experiments.images import ENDINGS, Size, read_images
from experiments.readers import Arrays

TRAIN = "train"
TESTS = ("test", "val", "valid", "validation")
"""Folders that hold a test split; of several the first one counts, and the others are passed over."""


class Listed(NamedTuple):
    """The files of one split and their labels int64 (n,), where there are any."""

    paths: list[Path]
    labels: np.ndarray | None = None


def read_imagefolder(root: Path, size: Size | None) -> Arrays:
    """Image files in folders named after their classes, at any depth below these, as torchvision's `ImageFolder`.

    `root`/train/<class>/* with `root`/test/<class>/* (or val, valid, validation), or `root`/<class>/* without a test
    split; images without class folders have no labels. Classes are sorted by name. Links are followed; hidden files
    and files with another ending than an image's are passed over. Raises `InputError` for a class without images,
    since passing it over would shift the labels of the others.
    """
    train, test = find_splits(root)
    names, listed = _list_classes(train)
    if test is None:
        return read_listed(names, listed, None, size)
    test_names, test_listed = _list_classes(test)
    if names != test_names:
        differing = ", ".join(sorted(set(names) ^ set(test_names)))
        raise InputError(f"{train} and {test} must hold the same classes, they differ in {differing}")
    return read_listed(names, listed, test_listed, size)


def read_plain(root: Path, size: Size | None) -> Arrays:
    """All image files in a folder and below it, without labels; in `root`/train and `root`/test where it has them."""
    train, test = find_splits(root)
    splits = [None if folder is None else Listed(_images_in(folder)) for folder in (train, test)]
    assert splits[0] is not None
    return read_listed((), splits[0], splits[1], size)


def read_listed(names: tuple[str, ...], train: Listed, test: Listed | None, size: Size | None) -> Arrays:
    """The files' pixels, of all splits in the same channels and size, with the labels that they are listed with."""
    if test is None:
        return Arrays(names, read_images(train.paths, size), train.labels)
    pixels, count = read_images([*train.paths, *test.paths], size), len(train.paths)
    return Arrays(names, pixels[:count], train.labels, pixels[count:], test.labels)


def find_splits(root: Path) -> tuple[Path, Path | None]:
    """The folders of the training and the test split; `root` itself and None where it is not split.

    One folder named as a split, with images and no folders of images in it, beside other folders of images is a class:
    trains are. One split alone is all there is. Raises `InputError` where there is no such folder.
    """
    if not root.is_dir():
        raise InputError(f"expected a folder of images at {root} (data.root), found none")
    named = [root / name for name in (TRAIN, *TESTS) if (root / name).is_dir()]
    if not named:
        return root, None
    others = [folder for folder in subfolders(root) if folder not in named]
    if len(named) == 1 and _any_images(others) and not _any_images(subfolders(named[0])):
        return root, None
    return named[0], named[1] if len(named) > 1 and named[0].name == TRAIN else None


def _any_images(folders: list[Path]) -> bool:
    return any(next(find_images(folder), None) for folder in folders)


def subfolders(folder: Path) -> list[Path]:
    """Visible folders in a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def find_images(folder: Path) -> Iterator[Path]:
    """Files with an image's ending in a folder and below it, in a fixed order; hidden names are passed over.

    Links are followed, each folder is entered once. Raises `InputError` for a folder that may not be read.
    """
    entered = {os.path.realpath(folder)}
    for place, below, files in os.walk(folder, onerror=_refuse, followlinks=True):
        new = {os.path.realpath(os.path.join(place, name)): name for name in sorted(below) if not name.startswith(".")}
        below[:] = [name for path, name in new.items() if path not in entered]
        entered |= set(new)
        for name in sorted(files):
            if is_image(name):
                yield Path(place, name)


def is_image(name: str) -> bool:
    """Whether a file of that name is taken for an image."""
    return not name.startswith(".") and name.lower().endswith(ENDINGS)


def _list_classes(folder: Path) -> tuple[tuple[str, ...], Listed]:
    """Class names and files of one split."""
    classes = subfolders(folder)
    if not classes:
        return (), Listed(_images_in(folder))
    groups = [_images_in(place) for place in classes]
    labels = np.repeat(np.arange(len(groups), dtype=np.int64), [len(paths) for paths in groups])
    return tuple(place.name for place in classes), Listed([path for paths in groups for path in paths], labels)


def _images_in(folder: Path) -> list[Path]:
    paths = list(find_images(folder))
    if not paths:
        raise InputError(f"expected image files ({', '.join(ENDINGS)}) in {folder}, found none; add some or remove it")
    return paths


def _refuse(error: OSError) -> None:
    raise InputError(f"expected a folder that can be read at {error.filename}: {error.strerror}") from error
