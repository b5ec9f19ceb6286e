"""Linear expressions over the variables of a VNN-LIB file."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from dflare.errors import InputError
from repair.properties.expressions import Expression, Word

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")


@dataclass(frozen=True)
class Linear:
    """constant + sum of factor * variable; no factor is 0."""

    constant: float = 0.0
    factors: dict[str, float] = field(default_factory=dict)

    def plus(self, other: "Linear", times: float = 1.0) -> "Linear":
        """self + times * other, without variables that cancel out."""
        names = {**self.factors, **other.factors}
        sums = {name: self.factors.get(name, 0.0) + times * other.factors.get(name, 0.0) for name in names}
        rest = {name: factor for name, factor in sums.items() if factor != 0}
        return Linear(self.constant + times * other.constant, rest)

    def times(self, number: float) -> "Linear":
        """number * self."""
        return Linear().plus(self, number)


def read_linear(expression: Expression, declared: Collection[str], source: str) -> Linear:
    """A number, a variable, or (+ ...), (- ...), (* ...) of such; raises `InputError` for what is not linear."""
    if isinstance(expression, Word):
        if NUMBER.fullmatch(expression.text):
            return Linear(float(expression.text))
        if expression.text in declared:
            return Linear(0.0, {expression.text: 1.0})
        raise expected(source, expression, "a number or a declared variable")
    terms = [read_linear(item, declared, source) for item in expression.items[1:]]
    if expression.head not in ("+", "-", "*") or not terms:
        raise expected(source, expression, "a number, a variable, (+ A B), (- A B) or (* NUMBER A)")
    if expression.head == "-" and len(terms) == 1:
        return terms[0].times(-1)
    total = terms[0]
    for term in terms[1:]:
        if expression.head != "*":
            total = total.plus(term, 1 if expression.head == "+" else -1)
        elif total.factors and term.factors:
            raise expected(source, expression, "a product with a number, since constraints are linear")
        else:
            total = total.times(term.constant) if total.factors else term.times(total.constant)
    return total


def expected(source: str, where: Expression, wanted: str) -> InputError:
    """The error for an expression in a file: what was expected there, and what came."""
    return InputError(f"{source}, line {where.line}: expected {wanted}, got {_shown(where)}")


def _shown(expression: Expression) -> str:
    """The expression as text, cut where it is long."""
    if isinstance(expression, Word):
        return repr(expression.text[:60])
    inner = [item.text if isinstance(item, Word) else "(...)" for item in expression.items[:5]]
    text = " ".join([*inner, *(["..."] if len(expression.items) > 5 else [])])
    return f"({text[:60]})"
