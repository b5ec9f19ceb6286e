"""The files that published data sets consist of, read as arrays only."""

import gzip
import math
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from dflare.errors import InputError
from experiments.array_files import look_into
from experiments.images import open_image
from experiments.memory import check_memory

_LARGEST_BATCH = 2**26  # bytes; the published ones have 31 million
_MOSAIC = (50, 100)  # rows and columns of images in one mosaic
_ARRAY_PARTS = {  # what a pickled numpy array of numbers is made of; strings, lists and dictionaries need no name
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """An idx file of unsigned bytes, gzipped or not, as uint8 of `ndim` dimensions (LeCun's MNIST page).

    No more is unpacked than the header announces. Raises `InputError` for any other content.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4 + 4 * ndim)
            if len(head) < 4 + 4 * ndim or head[:4] != bytes((0, 0, 8, ndim)):  # 8 stands for unsigned bytes
                raise InputError(
                    f"expected an idx file of bytes in {ndim} dimensions at {path}, it begins {head[:4].hex()}"
                )
            shape = tuple(int(size) for size in np.frombuffer(head, ">u4", ndim, offset=4))
            size = math.prod(shape)
            check_memory(size, str(path))
            values = bytearray(file.read(size))  # writable, as torch wants it
            held = f"{len(values)}" if len(values) < size else "more" if file.read(1) else None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"expected a gzipped idx file at {path}, it cannot be unpacked: {error}") from error
    if held is not None:
        raise InputError(f"{path} must hold {size} bytes of data, it holds {held}")
    return np.frombuffer(values, np.uint8).reshape(shape)


class _ArrayUnpickler(pickle.Unpickler):
    """Reads numpy arrays in plain containers; a file that asks for anything else is refused, and nothing is run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_PARTS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """One of CIFAR-10's Python batches: images uint8 (n, 3, 32, 32) and labels int64 (n,)."""
    if path.stat().st_size > _LARGEST_BATCH:
        raise InputError(f"expected one of CIFAR-10's Python batches at {path}, it has {path.stat().st_size} bytes")
    try:
        with path.open("rb") as file:
            batch = _ArrayUnpickler(file, encoding="bytes").load()
        pixels, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except Exception as error:  # a broken pickle raises nearly anything
        raise InputError(f"expected one of CIFAR-10's Python batches at {path}, it cannot be read: {error}") from error
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3 * 32 * 32):
        raise InputError(
            f"{path} must hold uint8 pixels ({len(labels)}, 3072), got {pixels.dtype} {tuple(pixels.shape)}"
        )
    return pixels.reshape(-1, 3, 32, 32), labels.astype(np.int64)


def read_mosaics(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The images of `cifar10_<split>_*.webp` uint8 (n, 3, 32, 32), and as many labels int64 (n,)."""
    shards = sorted(folder.glob(f"cifar10_{split}_*.webp"))
    if not shards:
        raise InputError(f"expected mosaics cifar10_{split}_*.webp in {folder}, found none")
    images = np.concatenate([_cut(shard) for shard in shards])
    known = look_into(folder / "cifar10_labels.npz")
    labels = known[f"{split}_y"].read() if f"{split}_y" in known else np.empty(0)
    if labels.ndim != 1 or len(labels) < len(images) or labels.dtype.kind not in "iu":
        raise InputError(f"expected {len(images)} labels {split}_y in {folder / 'cifar10_labels.npz'}")
    return images, labels[: len(images)].astype(np.int64)


def _cut(path: Path) -> np.ndarray:
    """The images of one mosaic, row by row."""
    rows, columns = _MOSAIC
    with open_image(path) as file:
        mosaic = np.asarray(file.convert("RGB"))
    if mosaic.shape != (rows * 32, columns * 32, 3):
        raise InputError(f"expected a mosaic of {columns * 32} x {rows * 32} pixels at {path}, got {mosaic.shape[:2]}")
    tiles = mosaic.reshape(rows, 32, columns, 32, 3).transpose(0, 2, 4, 1, 3)
    return tiles.reshape(rows * columns, 3, 32, 32)
