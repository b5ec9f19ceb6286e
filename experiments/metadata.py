"""Folders of images with a `metadata.csv`, as the `datasets` library's "imagefolder" builder takes them."""

import csv
from pathlib import Path
from typing import NamedTuple

from dflare.errors import InputError
from experiments.folders import TESTS, TRAIN, Listed, read_listed
from experiments.images import Size
from experiments.labels import Column, number
from experiments.readers import Arrays

FILE = "metadata.csv"


class Row(NamedTuple):
    """A line of a `metadata.csv`: the image, and its label as it is written there."""

    path: Path
    label: str | None
    top: str  # first folder of its relative path


def read_metadata(root: Path, size: Size | None) -> Arrays:
    """The images that a `metadata.csv` lists: a column file_name, relative to its folder, and optionally label.

    Either train/ and test/ (or val/, valid/, validation/) have a file each, or one in `root` lists all; then the
    images below train/ and test/ are splits if there are no others. Labels: see `labels.number`. Images that are not
    listed are passed over; a listed name must not lead out of the folder, neither by itself nor through links.
    Raises `InputError` with the line for anything else.
    """
    train, test = _splits(root)
    columns = [_column(rows, root) for rows in (train, test)]
    names, labels = number(*columns)
    listed = [Listed([row.path for row in rows], values) for rows, values in zip((train, test), labels, strict=True)]
    return read_listed(names, listed[0], listed[1] if test else None, size)


def _splits(root: Path) -> tuple[list[Row], list[Row]]:
    """The rows of the training and of the test split; the latter are none where there is no such split."""
    if (root / FILE).is_file():
        rows = _read(root / FILE)
        tops = {row.top for row in rows}
        test = next((name for name in TESTS if name in tops), None)
        if TRAIN not in tops or test is None or not tops <= {TRAIN, *TESTS}:
            return rows, []
        return [row for row in rows if row.top == TRAIN], [row for row in rows if row.top == test]
    files = [root / name / FILE for name in (TRAIN, *TESTS) if (root / name / FILE).is_file()]
    if not files:
        raise InputError(f"expected {FILE} in {root} (data.root) or in its folder {TRAIN}, found none")
    split = len(files) > 1 and files[0].parent.name == TRAIN
    return _read(files[0]), _read(files[1]) if split else []


def _column(rows: list[Row], root: Path) -> Column | None:
    """The labels of a split, None where the file has no such column."""
    labels = [row.label for row in rows if row.label is not None]
    return Column(labels, f"the metadata of {root}") if labels else None


def _read(path: Path) -> list[Row]:
    """The rows of one file, each checked."""
    rows: list[Row] = []
    seen: dict[Path, int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            _check_header(header, path)
            for values in lines:
                if not values:  # a line without anything
                    continue
                place = f"{path}, line {lines.line_num}"
                if len(values) != len(header):
                    raise InputError(f"expected {len(header)} values in {place}, got {len(values)}")
                row = _row(dict(zip(header, values, strict=True)), path.parent, place)
                if row.path in seen:
                    raise InputError(f"expected each image once in {place}, {row.path} stands in line {seen[row.path]}")
                seen[row.path] = lines.line_num
                rows.append(row)
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise InputError(f"expected a table in UTF-8 with commas in {path}: {error}") from error
    if not rows:
        raise InputError(f"expected images in {path}, it lists none")
    return rows


def _check_header(header: list[str], path: Path) -> None:
    if header.count("file_name") != 1 or header.count("label") > 1:
        raise InputError(
            f"expected one column file_name, and at most one column label, in {path}, got {', '.join(header) or 'none'}"
        )


def _row(values: dict[str, str], folder: Path, place: str) -> Row:
    name = values["file_name"]
    relative = Path(name)
    if not name.strip() or "\0" in name or relative.is_absolute() or ".." in relative.parts:
        raise InputError(f"file_name must be a path relative to the folder of its {FILE} in {place}, got {name!r}")
    path = folder / relative
    if not path.is_file():
        raise InputError(f"expected an image at {path}, named in {place}, found none")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"file_name must not lead out of its folder in {place}, got {name!r}, a link to elsewhere")
    label = values.get("label")
    if label is not None and not label.strip():
        raise InputError(f"expected a label in {place}, got an empty one")
    return Row(path, label, relative.parts[0])
