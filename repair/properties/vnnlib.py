"""VNN-LIB 1.0 files: boxes of inputs X_i and linear constraints on outputs Y_j, which describe the *unsafe* region.

All assertions hold at once; `and` and `or` may be nested. The format is described by S. Demarchi, D. Guidotti, L.
Pulina and A. Tacchella, "Supporting standardization of neural networks verification with VNN-LIB and CoCoNet" (FoMLAS
2023); what is read here is what VNN-COMP's files of real-valued inputs use, as ACAS Xu's properties 1 to 10.
"""

import re
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from dflare.errors import InputError
from repair.properties.alternatives import Atom, find_cases
from repair.properties.expressions import MOST_CHARACTERS, Expression, Group, Word, read_groups
from repair.properties.linear import expected, read_linear
from repair.properties.property import Property

MOST_ALTERNATIVES = 20_000
"""Ands that a file's ors may multiply out to."""

VARIABLE = re.compile(r"[XY]_(0|[1-9]\d{0,6})")

IGNORED = ("set-logic", "set-info", "set-option", "check-sat", "exit")
"""SMT-LIB commands that say nothing about the property."""


Alternatives = list[tuple[Atom, ...]]
"""An or of ands of comparisons."""


def read_vnnlib(path: Path) -> Property:
    """The property in a VNN-LIB file, named as the file.

    Raises `InputError`, with the line, for what is no such file, for constraints that are not linear, that mix inputs
    with outputs or bound several inputs together, and for inputs without bounds or cases without outputs.
    """
    if not path.is_file():
        raise InputError(f"expected a VNN-LIB file at {path}, found none")
    if path.stat().st_size > MOST_CHARACTERS:
        raise InputError(f"{path} must have at most {MOST_CHARACTERS} bytes, it has {path.stat().st_size}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"expected VNN-LIB text in UTF-8 in {path}, byte {error.start} is not") from error
    return parse_vnnlib(text, path.stem, str(path))


def parse_vnnlib(text: str, name: str, source: str) -> Property:
    """The property that a VNN-LIB text states, see `read_vnnlib`; `source` is what errors name."""
    reader = _Reader(source)
    certain: list[Atom] = []  # kept apart: a file has two of them for each of up to thousands of inputs
    found: Alternatives = [()]
    for group in read_groups(text, source):
        if group.head in ("declare-const", "declare-fun"):
            reader.declare(group)
        elif group.head == "assert" and len(group.items) == 2:
            some = reader.alternatives(group.items[1])
            certain += some[0] if len(some) == 1 else ()
            found = found if len(some) == 1 else reader.both(found, some, group.line)
        elif group.head not in IGNORED:
            raise expected(source, group, "(declare-const NAME Real) or (assert CONSTRAINT)")
    inputs, outputs = reader.count("X"), reader.count("Y")
    cases = find_cases([(*certain, *alternative) for alternative in found], inputs, outputs, source)
    return Property(name, inputs, outputs, cases)


@dataclass(frozen=True)
class _Reader:
    """The variables declared so far, and the name of the source for errors."""

    source: str
    declared: set[str] = field(default_factory=set)

    def declare(self, group: Group) -> None:
        words = [item.text if isinstance(item, Word) else "()" for item in group.items]
        kind = ["()", "Real"] if words[0] == "declare-fun" else ["Real"]
        if words[2:] != kind or not VARIABLE.fullmatch(words[1]):
            raise expected(self.source, group, f"({words[0]} NAME {' '.join(kind)}) of an input X_0 or an output Y_0")
        if words[1] in self.declared:
            raise expected(self.source, group, f"{words[1]} to be declared once")
        self.declared.add(words[1])

    def count(self, letter: str) -> int:
        """How many inputs or outputs there are; their numbers must run from 0 without gaps."""
        numbers = sorted(int(name[2:]) for name in self.declared if name[0] == letter)
        if not numbers or numbers[-1] != len(numbers) - 1:
            came = f"{len(numbers)} up to {letter}_{numbers[-1]}" if numbers else "none"
            raise InputError(f"{self.source}: expected {letter}_0, {letter}_1, ... declared without gaps, got {came}")
        return len(numbers)

    def alternatives(self, expression: Expression) -> Alternatives:
        """A formula of `and`, `or` and comparisons as an or of ands."""
        if isinstance(expression, Word) or expression.head not in ("and", "or", "<=", ">="):
            raise expected(self.source, expression, "(and ...), (or ...), (<= A B) or (>= A B)")
        operands = expression.items[1:]
        if expression.head in ("<=", ">="):
            if len(operands) != 2:
                raise expected(self.source, expression, f"({expression.head} A B)")
            one, other = (read_linear(operand, self.declared, self.source) for operand in operands)
            return [(Atom(one.plus(other, -1) if expression.head == "<=" else other.plus(one, -1), expression.line),)]
        parts = [self.alternatives(operand) for operand in operands]
        if not parts:
            raise expected(self.source, expression, f"a constraint inside ({expression.head} ...)")
        if expression.head == "or":
            self.limit(sum(map(len, parts)), expression.line)
            return [atoms for part in parts for atoms in part]
        whole: Alternatives = [()]
        for part in parts:
            whole = self.both(whole, part, expression.line)
        return whole

    def both(self, some: Alternatives, others: Alternatives, line: int) -> Alternatives:
        """The and of two formulas, multiplied out."""
        self.limit(len(some) * len(others), line)
        return [one + other for one, other in product(some, others)]

    def limit(self, count: int, line: int) -> None:
        if count > MOST_ALTERNATIVES:
            raise InputError(f"{self.source}, line {line}: expected at most {MOST_ALTERNATIVES} cases, got {count}")
