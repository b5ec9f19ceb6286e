"""NumPy's files, `.npy` and `.npz`: what they say they hold is checked before any of it is read, and nothing is run."""

import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from dflare.errors import InputError
from experiments.memory import check_memory

MOST_EXPANSION = 200
"""Times that a packed array may grow. Pixels grow 2 to 20 times; zeros alone, as in a zip bomb, up to 1,032 times."""

SMALL = 2**26
"""Bytes up to which an array may grow by any factor: 64 MiB hurt nobody."""

_BLOCK = 2**22  # values that are converted at once


class Stored(NamedTuple):
    """An array in a file, known by its header and not read yet."""

    name: str  # the file, and the array in it
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool  # whether the first dimension changes fastest
    open: Callable[[], BinaryIO]
    start: int  # bytes of header
    file: Path | None  # where the values lie as they are

    def read(self) -> np.ndarray:
        """All of it; raises `InputError` for values cut short or damaged."""
        check_memory(self.dtype.itemsize * math.prod(self.shape), self.name)
        parts = [part.copy() for part in self.blocks()]
        return np.concatenate(parts) if parts else np.empty(self.shape, self.dtype)

    def mapped(self) -> np.ndarray | None:
        """The array as it lies in its file, its pages read when they are touched; None where it is packed.

        What is written into it stays in memory.
        """
        if self.file is None or self.fortran:
            return None
        return np.memmap(self.file, self.dtype, "c", self.start, self.shape)

    def blocks(self) -> Iterator[np.ndarray]:
        """The array in order, some entries of the first dimension at a time; reads errors as `read`."""
        n, row = self.shape[0], math.prod(self.shape[1:])
        rows = n if self.fortran else max(1, _BLOCK // row)
        with reading(self.name), self.open() as stream:
            _take(stream, self.start, self.name)
            for first in range(0, n, rows):
                count = min(rows, n - first)
                values = np.frombuffer(_take(stream, count * row * self.dtype.itemsize, self.name), self.dtype)
                yield values.reshape(self.shape, order="F") if self.fortran else values.reshape(count, *self.shape[1:])


def look_into(path: Path) -> dict[str, Stored]:
    """The arrays of a `.npz` file by name, or the one of a `.npy` file by the file's name.

    Raises `InputError` for a file that is none, for arrays of Python objects, and for those that claim to be larger
    than the file or grow as only a bomb does.
    """
    if path.suffix.lower() == ".npy":
        size = path.stat().st_size
        with reading(str(path)), path.open("rb") as stream:
            return {path.stem: _header(stream, str(path), size, lambda: path.open("rb"), path)}
    found: dict[str, Stored] = {}
    with reading(str(path)), zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(".npy"):
                name = f"{entry.filename.removesuffix('.npy')} in {path}"
                _check_expansion(entry, name)
                opener = partial(_open_entry, path, entry)
                with opener() as stream:
                    found[entry.filename.removesuffix(".npy")] = _header(stream, name, entry.file_size, opener, None)
    return found


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what a broken file makes of its readers into an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and the header's parser have a dozen between them
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"expected an array that NumPy can read at {name}: {reason}") from error


def _header(stream: BinaryIO, name: str, size: int, opener: Callable[[], BinaryIO], file: Path | None) -> Stored:
    """What a `.npy` file of `size` bytes says that it holds, checked against its size."""
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):  # the later ones are for long lists of named columns
        raise InputError(f"expected version (1, 0) of NumPy's format at {name}, got {version}")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject:
        raise InputError(f"expected an array of numbers at {name}, got Python objects, which are never loaded")
    start = stream.tell()
    if not shape or any(length < 0 for length in shape):
        raise InputError(f"expected an array of one or more dimensions at {name}, got shape {shape}")
    expected = dtype.itemsize * math.prod(shape)
    if expected != size - start:
        raise InputError(
            f"{name} must hold {expected} bytes for {dtype} {shape}, but it holds {size - start}; write it again"
        )
    return Stored(name, shape, dtype, fortran, opener, start, file)


def _check_expansion(entry: zipfile.ZipInfo, name: str) -> None:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"expected {name} to be written by numpy.savez or savez_compressed, got another compression")
    if entry.file_size > SMALL and entry.file_size > MOST_EXPANSION * entry.compress_size:
        raise InputError(
            f"{name} would grow from {entry.compress_size} to {entry.file_size} bytes, more than {MOST_EXPANSION} "
            "times as images do; if you trust it, write it again with numpy.savez"
        )


def _open_entry(path: Path, entry: zipfile.ZipInfo) -> BinaryIO:
    """One array of an archive; the archive is closed with it."""
    archive = zipfile.ZipFile(path)
    stream = archive.open(entry)
    archive.close()  # its file stays open until the stream is closed
    return stream  # type: ignore[return-value]


def _take(stream: BinaryIO, count: int, name: str) -> bytes:
    """The next bytes, all of them; an archive compares its checksum with the last ones."""
    values = stream.read(count)
    if len(values) < count:
        raise InputError(f"{name} ended before its last value; write it again")
    return values
