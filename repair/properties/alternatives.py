"""What ands of linear constraints mean: a box of inputs, and a polytope of outputs that is unsafe there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dflare.errors import InputError
from repair.properties.linear import Linear
from repair.properties.property import LARGEST, Box, Case, Polytope

Sides = tuple[tuple[float, float], ...]
"""(low, high) of every input; low > high where nothing lies between."""


@dataclass(frozen=True)
class Atom:
    """`linear <= 0`, and the line where it stands."""

    linear: Linear
    line: int


def find_cases(alternatives: Sequence[tuple[Atom, ...]], inputs: int, outputs: int, source: str) -> tuple[Case, ...]:
    """A case for every box, with the polytopes of all alternatives on it; contradictory alternatives are left out.

    Variables are X_i for inputs and Y_j for outputs. Raises `InputError`, naming `source` and the line, for
    constraints that mix inputs with outputs or bound several inputs together, for inputs without bounds or with such
    beyond float32, for alternatives that say nothing about outputs, and where no box holds an input.
    """
    unsafe: dict[Sides, list[Polytope]] = {}
    for atoms in alternatives:
        sides = _sides(atoms, inputs, source)
        if all(low <= high for low, high in sides):
            unsafe.setdefault(sides, []).append(_polytope(atoms, outputs, source))
    if not unsafe:
        raise InputError(f"{source}: expected a box that holds an input, but the bounds contradict each other")
    boxes = [Box(*torch.tensor(sides, dtype=torch.float64).unbind(-1)) for sides in unsafe]
    return tuple(Case(box, tuple(polytopes)) for box, polytopes in zip(boxes, unsafe.values(), strict=True))


def _sides(atoms: Sequence[Atom], inputs: int, source: str) -> Sides:
    """The tightest bounds of every input."""
    bounds = [(-math.inf, math.inf)] * inputs
    for atom in atoms:
        names = sorted(atom.linear.factors)
        if not names and atom.linear.constant > 0:
            return ((1.0, 0.0),) * inputs
        if not names or names[-1][0] == "Y":
            continue
        if len(names) > 1:
            raise InputError(
                f"{source}, line {atom.line}: expected bounds of one input at a time, so that inputs lie in boxes, "
                f"got {' and '.join(names[:3])} together"
            )
        index, factor = int(names[0][2:]), atom.linear.factors[names[0]]
        (low, high), end = bounds[index], -atom.linear.constant / factor
        bounds[index] = (low, min(high, end)) if factor > 0 else (max(low, end), high)
    if open_ends := [index for index, pair in enumerate(bounds) if not all(map(math.isfinite, pair))]:
        raise InputError(f"{source}: expected bounds on both sides of X_{open_ends[0]} in every case")
    if beyond := [index for index, pair in enumerate(bounds) if max(map(abs, pair)) > LARGEST]:
        raise InputError(f"{source}: expected bounds of X_{beyond[0]} within {LARGEST:.3g}, the largest float32")
    return tuple(bounds)


def _polytope(atoms: Sequence[Atom], outputs: int, source: str) -> Polytope:
    """The constraints on outputs, one a row."""
    rows = []
    for atom in atoms:
        names = sorted(atom.linear.factors)
        if names and names[-1][0] == "Y":
            if names[0][0] == "X":
                raise InputError(
                    f"{source}, line {atom.line}: expected a constraint on inputs or on outputs, got {names[0]} and "
                    f"{names[-1]} together"
                )
            rows.append(atom.linear)
    if not rows:
        raise InputError(f"{source}: expected a constraint on outputs in every case, got one without")
    coefficients = torch.zeros(len(rows), outputs, dtype=torch.float64)
    for row, linear in enumerate(rows):
        for name, factor in linear.factors.items():
            coefficients[row, int(name[2:])] = factor
    return Polytope(coefficients, torch.tensor([-linear.constant for linear in rows], dtype=torch.float64))
