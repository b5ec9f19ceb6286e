"""Rows that a JSON file of an earlier run holds, so that they need not be measured again."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dflare.errors import InputError

Row = dict[str, Any]

IDENTITY = ("pair", "recipe", "parts", "scale")
"""Keys in which two rows of a repair of a pair are the same measurement."""


def read(path: Path | None) -> list[Row]:
    """The rows of a benchmark's JSON file, none where it is not there yet; raises `InputError` for anything else."""
    if path is None or not path.exists():
        return []
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["rows"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"expected rows of this benchmark in {path}, got something else: {error}") from error


def find(known: Sequence[Row], same: Mapping[str, Any]) -> Row | None:
    """The first known row that has these values, None where there is none."""
    return next((row for row in known if all(row[key] == value for key, value in same.items())), None)


def others(known: Sequence[Row], rows: Sequence[Row], identity: Sequence[str] = IDENTITY) -> list[Row]:
    """The known rows that were not asked for this time; `identity` are the keys that make two rows the same."""
    return [row for row in known if find(rows, {key: row[key] for key in identity}) is None]
