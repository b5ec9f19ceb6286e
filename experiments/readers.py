"""Data sets as they lie on a disk: arrays of pixels and labels, without running anything that a file says."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dflare.errors import InputError
from experiments import downloads
from experiments.formats import read_batch, read_idx, read_mosaics


class Arrays(NamedTuple):
    """Images uint8 (n, c, h, w), labels int64 (n,) or None, and the same of the test split where there is one."""

    class_names: tuple[str, ...]
    train: np.ndarray
    train_labels: np.ndarray | None
    test: np.ndarray | None = None
    test_labels: np.ndarray | None = None


_DIGITS = tuple("0123456789")
_FASHION = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

PLACES = {
    "mnist": ("MNIST/raw",),
    "fashion_mnist": ("FashionMNIST/raw",),
    "cifar10": ("cifar-10-batches-py", "cifar10/cifar10_labels.npz"),
}
"""What a published set is known by, below the folder that holds it; any of them will do."""


def default_root(name: str) -> Path:
    """The folder `data` in $DFLARE_BENCH where that holds the set, else `data` in the working directory."""
    bench = os.environ.get("DFLARE_BENCH")
    if bench and is_there(name, Path(bench) / "data"):
        return Path(bench) / "data"
    return Path("data")


def is_there(name: str, root: Path) -> bool:
    """Whether a folder holds the published set of that name."""
    return any((root / place).exists() for place in PLACES.get(name, ()))


def read_digits(root: Path, download: bool) -> Arrays:
    """scikit-learn's 1,797 scanned digits, 8 x 8 with 17 grey levels, at 16 x 16 pixels; comes with the package.

    They have no official test split; the third whose id is divisible by 3 is declared one (the sides are cut by the
    ids' size, which the remainder says nothing about).
    """
    import torch
    from sklearn.datasets import load_digits

    from dflare.seeds import pixel_hash

    scans = load_digits()
    levels = torch.from_numpy(scans.images)[:, None]  # whole numbers 0 to 16, so all that follows is exact in float64
    larger = torch.nn.functional.interpolate(levels, size=(16, 16), mode="bilinear", align_corners=False)
    images = (larger * 255 / 16).round().to(torch.uint8)
    labels, test = scans.target.astype(np.int64), (pixel_hash(images) % 3 == 0).numpy()
    return Arrays(_DIGITS, images.numpy()[~test], labels[~test], images.numpy()[test], labels[test])


def read_mnist(root: Path, download: bool) -> Arrays:
    """MNIST from idx files, gzipped or not, in `root`/MNIST/raw; 60,000 and 10,000 images (1, 28, 28)."""
    return Arrays(_DIGITS, *_read_idx_set("MNIST", root, download))


def read_fashion_mnist(root: Path, download: bool) -> Arrays:
    """Fashion-MNIST from idx files, gzipped or not, in `root`/FashionMNIST/raw; shapes as MNIST's."""
    return Arrays(_FASHION, *_read_idx_set("FashionMNIST", root, download))


def read_cifar10(root: Path, download: bool) -> Arrays:
    """CIFAR-10, (3, 32, 32): the Python batches in `root`/cifar-10-batches-py, or lossless mosaics in `root`/cifar10.

    The mosaics (50 rows by 100 columns of images in one file) hold all test images and as many shards of the
    training split, in official order, as there are.
    """
    batches, mosaics = root / "cifar-10-batches-py", root / "cifar10"
    if not batches.is_dir() and (mosaics / "cifar10_labels.npz").is_file():
        return Arrays(_CIFAR10, *read_mosaics(mosaics, "train"), *read_mosaics(mosaics, "test"))
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    if download and any(_find(batches, name) is None for name in names):
        downloads.fetch_cifar10(root)
    parts = [read_batch(_present(batches, name)) for name in names]
    images, labels = (np.concatenate(column) for column in zip(*parts[:-1], strict=True))
    return Arrays(_CIFAR10, images, labels, *parts[-1])


def _read_idx_set(folder: str, root: Path, download: bool) -> list[np.ndarray]:
    """Training images and labels, then those of the test split."""
    raw = root / folder / "raw"
    names = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    if download and any(_find(raw, name) is None for name in names):
        downloads.fetch_idx(folder, root)
    arrays: list[np.ndarray] = []
    for split in ("train", "t10k"):
        images = read_idx(_present(raw, f"{split}-images-idx3-ubyte"), ndim=3)
        labels = read_idx(_present(raw, f"{split}-labels-idx1-ubyte"), ndim=1)
        if len(images) != len(labels):
            raise InputError(f"{raw} must hold as many {split} labels as images, got {len(labels)} and {len(images)}")
        arrays += [images[:, None], labels.astype(np.int64)]
    return arrays


def _find(folder: Path, name: str) -> Path | None:
    """The file of that name, or its gzipped form."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _present(folder: Path, name: str) -> Path:
    found = _find(folder, name)
    if found is None:
        raise InputError(
            f"expected a data file at {folder / name}, found none; set data.root to where the data is, "
            "or set data.download=true"
        )
    return found
