"""Many points of a small region at once: random walks that spread over it."""

import torch
from torch import Tensor

from repair.properties.dense import Function
from repair.properties.property import Property

SHRINKS = 24
"""Proposals on a line before a walker stays where it is; each cuts the line, to some 2^-24 at the end."""


def margins(network: Function, wanted: Property, inputs: Tensor, batch: int = 20_000) -> Tensor:
    """The violation margin of every input, (n,), asked in batches and without gradients."""
    with torch.no_grad():
        return torch.cat([wanted.margin(part, network(part)) for part in inputs.split(batch)])


def walk(
    network: Function, wanted: Property, starts: Tensor, steps: int, generator: torch.Generator, level: float = 0.0
) -> Tensor:
    """Where walkers from `starts` (n, inputs) are after `steps` moves among inputs of a margin >= level, (n, inputs).

    Hit-and-run (R. L. Smith, Operations Research 32, 1984): a random direction, and a uniform point on the part of
    the line that lies inside, found by shrinking the interval at refused points (R. M. Neal, Annals of Statistics 31,
    2003). The uniform distribution over what is connected stays as it is. Directions take each side of the box as
    their unit, half of them along one input. Level 0 are the counterexamples; `starts` must lie at the level.
    """
    low, high = _bounds(wanted, starts)
    here = starts
    for _ in range(steps):
        direction = _directions(here, generator) * (high - low)
        ends = torch.stack([(low - here) / direction, (high - here) / direction])
        ends = ends.nan_to_num(0.0, 0.0, 0.0)  # a side without length, or no move along it
        still = direction == 0
        near = ends.amin(0).masked_fill(still, -torch.inf).amax(-1).clamp(max=0).nan_to_num(neginf=0.0)
        far = ends.amax(0).masked_fill(still, torch.inf).amin(-1).clamp(min=0).nan_to_num(posinf=0.0)
        here = _along(network, wanted, here, direction, (near, far), (low, high), generator, level)
    return here


def _along(
    network: Function,
    wanted: Property,
    here: Tensor,
    direction: Tensor,
    interval: tuple[Tensor, Tensor],
    bounds: tuple[Tensor, Tensor],
    generator: torch.Generator,
    level: float,
) -> Tensor:
    """One move of every walker along its line."""
    near, far = interval
    moved, open_rows = here.clone(), torch.arange(len(here))
    for _ in range(SHRINKS):
        unit = torch.rand(len(open_rows), generator=generator, dtype=here.dtype)
        at = near[open_rows] + unit * (far - near)[open_rows]
        tried = here[open_rows] + at[:, None] * direction[open_rows]
        tried = tried.clamp(bounds[0][open_rows], bounds[1][open_rows])
        inside = margins(network, wanted, tried) >= level
        moved[open_rows[inside]] = tried[inside]
        refused, at = open_rows[~inside], at[~inside]
        near[refused] = torch.where(at < 0, at, near[refused])
        far[refused] = torch.where(at < 0, far[refused], at)
        open_rows = refused
        if not len(open_rows):
            break
    return moved


def _directions(here: Tensor, generator: torch.Generator) -> Tensor:
    """Unit directions, (n, inputs): every second one along an axis."""
    n, inputs = here.shape
    free = torch.randn(n, inputs, generator=generator, dtype=here.dtype)
    axis = torch.randint(inputs, (n,), generator=generator)
    single = torch.nn.functional.one_hot(axis, inputs).to(here.dtype)
    chosen = torch.where((torch.rand(n, generator=generator) < 0.5)[:, None], single, free)
    return chosen / chosen.norm(dim=-1, keepdim=True)


def _bounds(wanted: Property, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The sides of the first box that holds each input, (n, inputs) each."""
    low, high = torch.empty_like(inputs), torch.empty_like(inputs)
    placed = torch.zeros(len(inputs), dtype=torch.bool)
    for case in wanted.cases:
        new = case.box.contains(inputs) & ~placed
        ends = case.box.bounds(inputs.dtype)
        low[new], high[new] = ends
        placed |= new
    if not placed.all():
        raise ValueError(f"inputs must lie in the boxes of {wanted.name}, {int((~placed).sum())} do not")
    return low, high
