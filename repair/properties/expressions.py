"""S-expressions, as SMT-LIB and VNN-LIB files are written in: text to nested lists that know their lines."""

from collections.abc import Iterator
from dataclasses import dataclass

from dflare.errors import InputError

MOST_CHARACTERS = 50_000_000
"""Of a file; the largest of VNN-COMP's image benchmarks stay below it."""

DEEPEST = 64
"""Brackets that may be open at once: `assert`, `or`, `and`, a comparison and its sums need six."""


@dataclass(frozen=True)
class Word:
    """A symbol or a number as it is written, and its line, from 1."""

    text: str
    line: int


@dataclass(frozen=True)
class Group:
    """What stands between two brackets, and the line of the opening one, from 1."""

    items: "tuple[Word | Group, ...]"
    line: int

    @property
    def head(self) -> str:
        """The first word, or nothing where the group is empty or starts with a group."""
        return self.items[0].text if self.items and isinstance(self.items[0], Word) else ""


Expression = Word | Group


def read_groups(text: str, source: str) -> Iterator[Group]:
    """The bracketed expressions of a text, in order; `;` starts a comment that runs to the end of its line.

    Raises `InputError`, naming `source` and the line, for brackets that do not match, for a word outside of any, for
    more than `DEEPEST` open brackets and for more than `MOST_CHARACTERS`.
    """
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"{source} must have at most {MOST_CHARACTERS} characters, it has {len(text)}")
    open_groups: list[tuple[list[Expression], int]] = []
    for word in _words(text):
        if word.text == "(":
            open_groups.append(([], word.line))
            if len(open_groups) > DEEPEST:
                raise InputError(f"{source}, line {word.line}: expected at most {DEEPEST} open brackets, got one more")
        elif not open_groups:
            raise InputError(f"{source}, line {word.line}: expected an opening bracket, got {word.text[:40]!r}")
        elif word.text == ")":
            items, line = open_groups.pop()
            group = Group(tuple(items), line)
            if not open_groups:
                yield group
            else:
                open_groups[-1][0].append(group)
        else:
            open_groups[-1][0].append(word)
    if open_groups:
        raise InputError(f"{source}, line {open_groups[-1][1]}: the bracket that opens here is never closed")


def _words(text: str) -> Iterator[Word]:
    """Brackets, symbols and numbers, without comments."""
    for line, content in enumerate(text.splitlines(), start=1):
        code = content.partition(";")[0]
        for word in code.replace("(", " ( ").replace(")", " ) ").split():
            yield Word(word, line)
