"""Markdown of what people wrote: names cannot become links, markup or more columns."""

import re
from collections.abc import Iterable, Sequence
from typing import Any


def escape(value: Any) -> str:
    """Text that Markdown shows as it is, on one line: punctuation with a meaning gets a backslash.

    So do addresses (`://`, `www.`, `@`), so that a path or a name cannot become a link.
    """
    line = "".join(character if character.isprintable() else " " for character in str(value))
    return re.sub(r"([\\`*_\[\]<>~|&#!@]|:(?=//)|(?<=www)\.)", r"\\\1", line)


def fenced(text: str, language: str = "") -> list[str]:
    """A code block whose fence is longer than any run of backticks in the text."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return [fence + language, *text.rstrip("\n").split("\n"), fence, ""]


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = True) -> list[str]:
    """A Markdown table, its first column left-aligned, others right if they are numbers; cells are escaped already."""
    rule = [":--"] + ["--:" if numbers else ":--"] * (len(header) - 1)
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)] + [""]
