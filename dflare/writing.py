"""Files written whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write the file whole: temporary name beside it, fsync, rename. A reader sees the old file or the new one.

    Text is written as UTF-8; missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        put_in_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def written_as(name: str, target: Path) -> Iterator[Path]:
    """A path that ends with `name`, for a writer that puts a file's name into the file; what it holds becomes `target`.

    Where the block raises, the target stays as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(".tmp", f".{target.name}.", target.parent) as folder:
        temporary = Path(folder) / name
        yield temporary
        put_in_place(temporary, target)


def sync_folder(folder: Path) -> None:
    """Make a rename or a new name durable; Windows neither needs nor allows it."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def put_in_place(temporary: Path, target: Path) -> None:
    """Give a file that was written whole the name of another: a power cut leaves the old one or the new one."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, target)
    sync_folder(target.parent)
