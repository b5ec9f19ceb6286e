"""Files of a run folder: written whole or not at all, appended line by line, read with one-sentence errors."""

import json
import os
from pathlib import Path
from typing import Any

from dflare.errors import InputError


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write the file whole: temporary name beside it, fsync, rename. A reader sees the old file or the new one.

    Text is written as UTF-8; missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Append one line and fsync. A torn line that a killed process left at the end is cut off first."""
    if "\n" in line:
        raise ValueError("a line must not hold a line break")
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("ab+") as file:
        file.seek(0)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if new:
        _sync_folder(path.parent)


def read_lines(path: Path) -> list[str]:
    """All lines that were written whole, without their ends; a torn last line is left out, as `append_line` does."""
    content = _read(path).rpartition(b"\n")[0]
    try:
        return content.decode().split("\n") if content else []
    except UnicodeDecodeError as error:
        raise InputError(f"{path} must be a UTF-8 text file, got a bad byte at {error.start}") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file; NaN and infinities, which JSON does not know, are read as null."""
    try:
        return parse_json(_read(path).decode(), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} must be a UTF-8 text file, got a bad byte at {error.start}") from error


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text; `where` names it in the error."""
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{where} must be valid JSON, got {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise InputError(f"expected to read {path}, got: {reason}; is this a complete run folder?") from error


def _sync_folder(folder: Path) -> None:
    """Make a rename or a new name durable; Windows neither needs nor allows it."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
