"""A property of a network: boxes of inputs, and the outputs that are unsafe there."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = torch.finfo(torch.float32).max
"""Of a bound's magnitude: networks compute in float32."""


@dataclass(frozen=True)
class Box:
    """All inputs with low <= x <= high; `low` and `high` are float64 (inputs,), at most `LARGEST`, low <= high."""

    low: Tensor
    high: Tensor

    def __post_init__(self) -> None:
        if self.low.ndim != 1 or self.low.shape != self.high.shape:
            raise ValueError(f"bounds must be (inputs,), got {tuple(self.low.shape)} and {tuple(self.high.shape)}")
        if not (self.low <= self.high).all() or not (torch.stack([self.low, self.high]).abs() <= LARGEST).all():
            raise ValueError("bounds must be finite in float32 with low <= high")

    def bounds(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The least and the greatest number of this type inside the box, (inputs,) each.

        Rounding to float32 may leave a box by half a step, so bounds are rounded inwards; where not one number of the
        type lies between the two, both are the nearest one.
        """
        low, high = self.low.to(dtype), self.high.to(dtype)
        inner = torch.where(low.double() < self.low, torch.nextafter(low, torch.full_like(low, torch.inf)), low)
        outer = torch.where(high.double() > self.high, torch.nextafter(high, torch.full_like(high, -torch.inf)), high)
        empty = inner > outer
        nearest = ((self.low + self.high) / 2).to(dtype)
        return torch.where(empty, nearest, inner), torch.where(empty, nearest, outer)

    def contains(self, inputs: Tensor) -> Tensor:
        """Whether each input (n, inputs) lies in the box, (n,) bool."""
        low, high = self.bounds(inputs.dtype)
        return ((inputs >= low) & (inputs <= high)).all(-1)

    def sample(self, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """n uniform draws, (n, inputs)."""
        low, high = self.bounds(dtype)
        unit = torch.rand(n, len(low), generator=generator, dtype=torch.float64)
        return (self.low + unit * (self.high - self.low)).to(dtype).clamp(low, high)


@dataclass(frozen=True)
class Polytope:
    """All outputs y with coefficients @ y <= bounds, every row at once; float64 (rows, outputs) and (rows,)."""

    coefficients: Tensor
    bounds: Tensor

    def depth(self, outputs: Tensor) -> Tensor:
        """The least slack of any row, (n,), in the outputs' unit: >= 0 inside, and negative outside; inf of no rows."""
        if not len(self.bounds):
            return torch.full_like(outputs[..., 0], torch.inf)
        coefficients = self.coefficients.to(outputs)
        return (self.bounds.to(outputs) - outputs @ coefficients.T).amin(-1)


@dataclass(frozen=True)
class Case:
    """Inputs of a box, and the unsafe outputs there: those in any of the polytopes."""

    box: Box
    unsafe: tuple[Polytope, ...]


@dataclass(frozen=True)
class Property:
    """What a network must not do: an input of a case's box whose output lies in one of the case's polytopes.

    Boxes may overlap: an input is judged by every case whose box holds it.
    """

    name: str
    inputs: int
    outputs: int
    cases: tuple[Case, ...]

    def margin(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """The violation margin (n,) of inputs (n, inputs) and their outputs (n, outputs), in the outputs' unit.

        It is >= 0 where the property is violated (the region of a VNN-LIB file is closed, a tie of two scores lies
        in it), < 0 where it holds, and -inf outside of all boxes. Over cases and polytopes (or) the greatest counts,
        over the rows of a polytope (and) the least slack. Gradients pass to the outputs.
        """
        self._check(inputs, outputs)
        margins = []
        for case in self.cases:
            inside = case.box.contains(inputs)
            depth = torch.stack([polytope.depth(outputs) for polytope in case.unsafe]).amax(0)
            margins.append(torch.where(inside, depth, -torch.inf))
        return torch.stack(margins).amax(0)

    def violated(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Whether each input is a counterexample, (n,) bool; NaN among the outputs counts as one."""
        margin = self.margin(inputs, outputs)
        return (margin >= 0) | (margin.isnan() & self.contains(inputs))

    def contains(self, inputs: Tensor) -> Tensor:
        """Whether each input lies in one of the boxes, (n,) bool."""
        return torch.stack([case.box.contains(inputs) for case in self.cases]).any(0)

    def sample(self, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """n draws, (n, inputs), uniform in each box; boxes are drawn in proportion to their volume.

        Where boxes overlap, the overlap is drawn as often as it is covered.
        """
        shares = volumes([case.box for case in self.cases])
        chosen = torch.multinomial(shares, n, replacement=True, generator=generator)
        drawn = torch.empty(n, self.inputs, dtype=dtype)
        for index, case in enumerate(self.cases):
            here = chosen == index
            drawn[here] = case.box.sample(int(here.sum()), generator, dtype)
        return drawn

    def _check(self, inputs: Tensor, outputs: Tensor) -> None:
        wanted = {"inputs": (inputs, self.inputs), "outputs": (outputs, self.outputs)}
        for what, (tensor, size) in wanted.items():
            if tensor.ndim != 2 or tensor.shape[1] != size or len(tensor) != len(inputs):
                raise ValueError(f"{what} of {self.name} must be ({len(inputs)}, {size}), got {tuple(tensor.shape)}")


def volumes(boxes: Sequence[Box]) -> Tensor:
    """Shares of the boxes' volumes, float64 (boxes,), summing to 1.

    A side that is a point in every box takes no part; a box that is thinner than others in some side has share 0,
    unless all of them are, and then the boxes count alike.
    """
    sides = torch.stack([box.high - box.low for box in boxes])
    lengths = sides[:, (sides > 0).any(0)]
    logs = lengths.log().sum(-1)
    if not len(lengths.T) or logs.isneginf().all():
        return torch.full((len(boxes),), 1 / len(boxes), dtype=torch.float64)
    return logs.softmax(0)
