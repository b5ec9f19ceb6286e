"""Where a model comes from: a file, or a user's own function, which is code. Imports no model code."""

import re
from os.path import abspath
from pathlib import Path

_NAME = r"[^\W\d]\w*"
REFERENCE = re.compile(rf"({_NAME}(?:\.{_NAME})*):({_NAME})")
"""`package.module:function`, the two in groups."""


def is_reference(text: str) -> bool:
    """Whether a text is `package.module:function`, and not the name of a file that is there."""
    return REFERENCE.fullmatch(text) is not None and not Path(text).exists()


def in_run_folder(path: Path) -> bool:
    """Whether a path, as given or with links followed, is a folder of a run or lies inside one.

    That is one with both `config.yaml` and `environment.json`: such folders are handed around as results.
    """
    return any(
        (folder / "config.yaml").exists() and (folder / "environment.json").exists()
        for whole in {Path(abspath(path)), path.resolve()}
        for folder in (whole, *whole.parents)
    )
