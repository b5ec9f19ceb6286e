"""What of a model file's constants is a weight: the same rule for every format, so that pairs of two can be compared.

A *parameter* is a number in a constant that the graph reads, of one dimension or more, if its type is a float, an
integer of up to 16 bits, or a wider integer that an operator reads as its bias. Not counted: scales and zero points of
an integer grid, running statistics of a batch normalisation, shapes, indices and paddings, scalars, and what lies in
the file but is read by nothing. A *weight* is a parameter in a tensor that is larger than 1 in two dimensions or more
(kernels, matrices, embeddings) and a float or an integer of up to 16 bits: biases, slopes and per-channel factors are
parameters, not weights. A preprocessing in the graph is counted like any other part (mean and standard deviation of
each channel are parameters). Weights packed into other types (several in one integer) are counted as they are stored.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

WIDEST = 16
"""Bits of the widest integers that are parameters whoever reads them; wider ones hold shapes and indices."""

NARROW = 8
"""Bits of the widest integers of the integer share."""


class Stored(NamedTuple):
    """A constant that a graph reads: its type as numpy names it ("int8", "float32"), its shape, what it is read as."""

    kind: str
    shape: tuple[int, ...]
    role: str = "value"  # or "bias", or "grid" (scales, zero points, statistics, settings of an operator)


@dataclass
class Contents:
    """What a model file says of itself; inputs and outputs have a name, a type and a shape, a word where it is free."""

    inputs: list[dict[str, Any]] | None = None
    outputs: list[dict[str, Any]] | None = None
    operators: Counter[str] | None = None
    constants: list[Stored] | None = None
    more: dict[str, Any] = field(default_factory=dict)  # what only this format has


def figures(constants: Iterable[Stored]) -> dict[str, Any]:
    """`parameters`, `weights` by type, and `integer_share`: the share of weights that are integers of up to 8 bits.

    The share is in [0, 1], None where there is no weight.
    """
    kept = [stored for stored in constants if _is_parameter(stored)]
    weights: Counter[str] = Counter()
    for stored in kept:
        if _integer_bits(stored.kind) <= WIDEST and sum(size > 1 for size in stored.shape) > 1:
            weights[stored.kind] += prod(stored.shape)
    integers = sum(count for kind, count in weights.items() if 0 < _integer_bits(kind) <= NARROW)
    return {
        "parameters": sum(prod(stored.shape) for stored in kept),
        "weights": dict(sorted(weights.items())),
        "integer_share": integers / weights.total() if weights else None,
    }


def _is_parameter(stored: Stored) -> bool:
    if not stored.shape or stored.role == "grid":
        return False
    bits = _integer_bits(stored.kind)
    return "float" in stored.kind or 0 < bits <= WIDEST or (bits > 0 and stored.role == "bias")


def _integer_bits(kind: str) -> int:
    """Width of an integer type, 0 for other types."""
    found = re.fullmatch(r"u?int(\d+)", kind)
    return int(found[1]) if found else 0
