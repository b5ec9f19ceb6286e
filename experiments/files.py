"""Files of a run folder: written whole or not at all, appended line by line, read with one-sentence errors."""

import json
import os
from pathlib import Path
from typing import Any

from dflare.errors import InputError
from dflare.writing import sync_folder, write_atomic

__all__ = ["append_line", "parse_json", "read_json", "read_lines", "write_atomic"]


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
        sync_folder(path.parent)


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
