"""Image data sets as tensors, and the three sides on which their images are used."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dflare.errors import InputError
from dflare.seeds import Seeds, distinct
from experiments import readers
from experiments.arrays import read_arrays
from experiments.folders import read_imagefolder, read_plain
from experiments.images import Size, resize, show_size
from experiments.kinds import kind_of
from experiments.metadata import read_metadata


@dataclass(frozen=True)
class Data:
    """A data set in memory. Without an official test split, `test_images` is None; labels may be None everywhere."""

    name: str
    class_names: tuple[str, ...]  # of label 0, 1, …; empty without labels
    train_images: Tensor  # (n, c, h, w) uint8
    train_labels: Tensor | None  # (n,) int64
    test_images: Tensor | None = None  # (m, c, h, w) uint8
    test_labels: Tensor | None = None  # (m,) int64

    def thinned(self, count: int) -> "Data":
        """The set with about `count` images of each split, evenly spaced."""

        def some(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[:: max(1, len(values) // count)]

        train = some(self.train_images)
        assert train is not None
        return replace(
            self,
            train_images=train,
            train_labels=some(self.train_labels),
            test_images=some(self.test_images),
            test_labels=some(self.test_labels),
        )


READERS: dict[str, Callable[[Path, bool], readers.Arrays]] = {
    "digits": readers.read_digits,
    "mnist": readers.read_mnist,
    "fashion_mnist": readers.read_fashion_mnist,
    "cifar10": readers.read_cifar10,
}
"""Published sets: name -> (root, download) -> arrays."""

FOLDERS: dict[str, Callable[[Path, Size | None], readers.Arrays]] = {
    "imagefolder": read_imagefolder,
    "images": read_plain,
    "metadata": read_metadata,
}
"""One's own image files, of any size: name -> (root, size) -> arrays."""

DATA_NAMES = (*READERS, *FOLDERS, "arrays")


def load_data(
    name: str | None = None,
    root: str | None = None,
    download: bool = False,
    image_size: int | Size | None = None,
    fallback_size: Size | None = None,
) -> Data:
    """The data set of that name, read from `root`; without a name what lies there, see `kinds.kind_of`.

    For published sets `root` defaults to the folder `data` in $DFLARE_BENCH where that holds the set, and to `data`
    otherwise. Nothing is downloaded unless `download`. With `image_size` (pixels; a side of a square, or height and
    width) images are resized so that they just cover it, and cropped about the centre; image files in folders come in
    `fallback_size` where there is no `image_size`, and must have one size without either.
    Raises `InputError` for an unknown name, missing or unreadable data.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if size is not None and min(size) < 1:
        raise InputError(f"data.image_size must be at least 1 pixel, got {image_size}")
    if name is not None and name not in DATA_NAMES:
        raise InputError(f"data.name must be one of {', '.join(DATA_NAMES)}, got {name!r}")
    if name not in READERS and root is None:
        raise InputError(f"data.name={name or 'null'} needs data.root, the file or folder that holds the images")
    name = name or kind_of(Path(str(root)))
    if name in FOLDERS:
        return _data(name, FOLDERS[name](Path(str(root)), size or fallback_size))
    if name == "arrays":
        arrays = read_arrays(Path(str(root)))
    else:
        arrays = READERS[name](Path(root) if root is not None else readers.default_root(name), download)
    if size is not None:
        test = None if arrays.test is None else resize(arrays.test, size)
        arrays = arrays._replace(train=resize(arrays.train, size), test=test)
    return _data(name, arrays)


def assign_sides(data: Data, split: tuple[float, float, float]) -> tuple[Seeds, Seeds, Seeds]:
    """The sides train, validate and judge, each without repeated images and in the order of the ids.

    The side of an image follows from its pixels alone, so that duplicates stay together and neither order nor
    company matters; the order by id makes the first k of a side a fair sample. With an official test split judge is
    that split, and the training split without the images that occur in it too is shared out train : validate.
    `split` are the three shares, each above 0 and 1 together. Raises `InputError` for others, and for an empty side.
    """
    check_split(split)
    train_share, validate_share, _ = split
    everything = distinct(data.train_images, data.train_labels)
    if data.test_images is None:
        place = _place(everything)
        ends = (train_share, train_share + validate_share)
        judge = everything.take(place >= ends[1])
    else:
        judge = distinct(data.test_images, data.test_labels)
        everything = everything.take(~torch.isin(everything.ids, judge.ids))
        place = _place(everything)
        ends = (train_share / (train_share + validate_share), 1.0)
    sides = (everything.take(place < ends[0]), everything.take((place >= ends[0]) & (place < ends[1])), judge)
    for key, side in zip(("train", "validate", "judge"), sides, strict=True):
        if len(side) == 0:
            raise InputError(
                f"split.{key} leaves none of the {len(everything)} distinct images to share out "
                f"(data.name={data.name}); give a larger share or more images"
            )
    return sides


def check_split(split: tuple[float, float, float]) -> None:
    """Raise `InputError` unless the shares train, validate and judge are above 0 and sum to 1."""
    for key, share in zip(("train", "validate", "judge"), split, strict=True):
        if not share > 0:
            raise InputError(f"split.{key} must be above 0, got {share}")
    if not abs(sum(split) - 1) < 1e-6:  # looser than float rounding, tighter than a typing error
        raise InputError(f"split.train, split.validate and split.judge must sum to 1, got {sum(split):g}")


def _place(seeds: Seeds) -> Tensor:
    """Where the ids lie in their range, (n,) float64 in [0, 1]."""
    return seeds.ids.double() / 2.0**63


def _data(name: str, arrays: readers.Arrays) -> Data:
    if arrays.test is not None and arrays.test.shape[1:] != arrays.train.shape[1:]:
        raise InputError(
            f"training and test images of {name} must have one size, got {show_size(arrays.train)} and "
            f"{show_size(arrays.test)}; set data.image_size"
        )
    for labels in (arrays.train_labels, arrays.test_labels):
        if labels is not None and len(labels) and not 0 <= labels.min() <= labels.max() < len(arrays.class_names):
            raise InputError(
                f"labels of {name} must be in [0, {len(arrays.class_names)}), got {labels.min()} to {labels.max()}"
            )
    train_labels, test, test_labels = (
        None if array is None else torch.from_numpy(array)
        for array in (arrays.train_labels, arrays.test, arrays.test_labels)
    )
    return Data(name, arrays.class_names, torch.from_numpy(arrays.train), train_labels, test, test_labels)
