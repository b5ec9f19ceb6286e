"""Balls around images as domains: everything within a radius of an image is to be answered alike."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dflare.classifiers import Classifier
from repair.properties.property import Box, Case, Polytope, Property

BATCH = 1000
"""Images that are asked at once."""


@dataclass(frozen=True)
class Balls:
    """All images within `radius` of a centre in L-inf and within [0, 1], and the class that is to be answered there.

    `centres` float32 (n, c, h, w) in [0, 1]; `wanted` int64 (n,), a label or what another model says at the centre;
    `radius` in (0, 1]. Raises `ValueError` for anything else.
    """

    centres: Tensor
    wanted: Tensor
    radius: float

    def __post_init__(self) -> None:
        if self.centres.ndim != 4 or self.wanted.shape != self.centres.shape[:1]:
            raise ValueError(
                f"centres must be (n, channels, height, width) and wanted (n,), got {tuple(self.centres.shape)} and "
                f"{tuple(self.wanted.shape)}"
            )
        if len(self.centres) and not (self.centres.amin() >= 0 and self.centres.amax() <= 1):
            raise ValueError("centres must lie in [0, 1]")
        if not 0 < self.radius <= 1:
            raise ValueError(f"radius must lie in (0, 1], got {self.radius}")

    def __len__(self) -> int:
        return len(self.centres)

    def take(self, rows: Tensor | slice) -> "Balls":
        """Some of the balls, selected by mask, index or slice."""
        return Balls(self.centres[rows], self.wanted[rows], self.radius)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest float32 number of every pixel inside its ball, (n, c, h, w) each."""
        middle = self.centres.double()
        ends = [(middle - self.radius).clamp(min=0), (middle + self.radius).clamp(max=1)]
        return _inwards(ends[0], torch.inf), _inwards(ends[1], -torch.inf)

    def sample(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """A uniform draw from the ball of each of these rows (m,), float32 (m, c, h, w)."""
        low, high = self.take(rows).bounds()
        return torch.lerp(low, high, torch.rand(low.shape, generator=generator)).clamp(low, high)

    def as_property(self, classes: int, name: str = "robustness") -> Property:
        """The same as a property of flat inputs (c * h * w,), for networks of vectors with that many classes.

        Unsafe are outputs in which another class has a score no less than that of the wanted one.
        """
        low, high = (ends.flatten(1).double() for ends in self.bounds())
        cases = []
        for row, right in enumerate(self.wanted.tolist()):
            others = [other for other in range(classes) if other != right]
            cases.append(Case(Box(low[row], high[row]), tuple(_above(other, right, classes) for other in others)))
        return Property(name, low.shape[1], classes, tuple(cases))


def margins(scores: Tensor, wanted: Tensor) -> Tensor:
    """The violation margin (n,): greatest score of another class - that of the wanted one (n,).

    As that of a property: >= 0 where it is violated, and a tie is a violation.
    """
    right = wanted[:, None]
    return scores.scatter(-1, right, -torch.inf).amax(-1) - scores.gather(-1, right).squeeze(-1)


def violated(scores: Tensor, wanted: Tensor) -> Tensor:
    """Whether another class scores no less than the wanted one, (n,) bool; NaN counts as a violation."""
    return ~(margins(scores, wanted) < 0)


@dataclass(frozen=True)
class Attack:
    """How far and how long an attack moves; steps shrink geometrically."""

    steps: int = 20
    first: float = 0.5  # the first step, in radii
    last: float = 0.05


def attack(
    classifier: Classifier, balls: Balls, how: Attack, generator: torch.Generator, starts: Tensor | None = None
) -> Tensor:
    """The image with the greatest violation margin met in each ball, float32 (n, c, h, w).

    Projected sign steps up the gradient of the margin (A. Madry et al., ICLR 2018) from uniform draws, or from
    `starts` inside the balls; the best point of every path counts. What it finds is a violation, what it does not
    find may be one all the same.
    """
    starts = balls.sample(torch.arange(len(balls)), generator) if starts is None else starts
    parts = [
        _ascend(classifier, balls.take(slice(at, at + BATCH)), how, starts[at : at + BATCH])
        for at in range(0, len(balls), BATCH)
    ]
    return torch.cat(parts) if parts else starts


def _ascend(classifier: Classifier, balls: Balls, how: Attack, images: Tensor) -> Tensor:
    low, high = balls.bounds()
    best, found = images, torch.full((len(images),), -torch.inf)
    for step in range(how.steps + 1):
        moving = images.detach().requires_grad_()
        margin = margins(classifier(moving), balls.wanted)
        better = (margin > found).detach()
        best = torch.where(better[:, None, None, None], images, best)
        found = torch.where(better, margin.detach(), found)
        if step == how.steps:
            break
        (slope,) = torch.autograd.grad(margin.sum(), moving)
        size = balls.radius * how.first * (how.last / how.first) ** (step / max(1, how.steps - 1))
        images = (images + size * slope.sign()).clamp(low, high)
    return best


def _above(other: int, right: int, classes: int) -> Polytope:
    """Outputs in which `other` scores no less than `right`."""
    row = torch.zeros(1, classes, dtype=torch.float64)
    row[0, right], row[0, other] = 1.0, -1.0
    return Polytope(row, torch.zeros(1, dtype=torch.float64))


def _inwards(ends: Tensor, towards: float) -> Tensor:
    """Float64 bounds as float32 ones that do not lie beyond them, on the side of `towards`."""
    near = ends.float()
    beyond = (near.double() < ends) if towards > 0 else (near.double() > ends)
    return torch.where(beyond, torch.nextafter(near, torch.full_like(near, towards)), near)
