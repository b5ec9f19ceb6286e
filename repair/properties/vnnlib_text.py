"""Properties written as VNN-LIB 1.0, as external verifiers take them; `vnnlib.read_vnnlib` reads the same back.

Numbers are written out in decimals, exactly: SMT-LIB knows no exponents. Differences of two outputs and single outputs
are written as `(<= Y_0 Y_1)` and `(<= Y_0 2.5)`, which every reader of VNN-COMP's files knows; sums with factors, which
only some know, are written where nothing less says it.
"""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

from torch import Tensor

from dflare.writing import write_atomic
from repair.properties.property import Box, Polytope, Property


def write_vnnlib(wanted: Property, path: Path) -> None:
    """Write the property to a file, whole or not at all."""
    write_atomic(path, vnnlib_text(wanted))


def vnnlib_text(wanted: Property) -> str:
    """The property as the text of a VNN-LIB file."""
    lines = [f"; {' '.join(wanted.name.split())}", ""]
    for letter, count in (("X", wanted.inputs), ("Y", wanted.outputs)):
        lines += [*(f"(declare-const {letter}_{index} Real)" for index in range(count)), ""]
    if len(wanted.cases) == 1:
        (case,) = wanted.cases
        lines += [f"(assert {bound})" for bound in _bounds(case.box)]
        lines += _unsafe(case.unsafe)
    else:
        cases = [
            f"(and {' '.join([*_bounds(case.box), *_rows(polytope)])})"
            for case in wanted.cases
            for polytope in case.unsafe
        ]
        lines += ["(assert (or", *(f"  {case}" for case in cases), "))"]
    return "\n".join(lines) + "\n"


def _bounds(box: Box) -> Iterator[str]:
    """Both bounds of every input."""
    for index, (low, high) in enumerate(zip(box.low.tolist(), box.high.tolist(), strict=True)):
        yield f"(>= X_{index} {_number(low)})"
        yield f"(<= X_{index} {_number(high)})"


def _unsafe(polytopes: tuple[Polytope, ...]) -> list[str]:
    """The assertions on outputs of a property of one box."""
    if len(polytopes) == 1:
        return [f"(assert {row})" for row in _rows(polytopes[0])]
    return ["(assert (or", *(f"  (and {' '.join(_rows(polytope))})" for polytope in polytopes), "))"]


def _rows(polytope: Polytope) -> Iterator[str]:
    for coefficients, bound in zip(polytope.coefficients, polytope.bounds.tolist(), strict=True):
        yield _row(coefficients, bound)


def _row(coefficients: Tensor, bound: float) -> str:
    """coefficients @ y <= bound in the simplest form that says it."""
    factors = {index: factor for index, factor in enumerate(coefficients.tolist()) if factor}
    if sorted(factors.values()) == [-1.0, 1.0] and bound == 0:
        less, more = sorted(factors, key=factors.__getitem__, reverse=True)
        return f"(<= Y_{less} Y_{more})"
    if list(factors.values()) == [1.0]:
        return f"(<= Y_{next(iter(factors))} {_number(bound)})"
    if list(factors.values()) == [-1.0]:
        return f"(>= Y_{next(iter(factors))} {_number(-bound)})"
    terms = [f"(* {_number(factor)} Y_{index})" for index, factor in factors.items()] or ["0.0"]
    whole = terms[0] if len(terms) == 1 else f"(+ {' '.join(terms)})"
    return f"(<= {whole} {_number(bound)})"


def _number(value: float) -> str:
    """Exactly this float64 in decimals, without an exponent."""
    text = format(Decimal(repr(value + 0.0)), "f")  # + 0.0 makes 0.0 of -0.0
    return text if "." in text else f"{text}.0"
