"""Small batched optimisers without gradients: particle swarm and differential evolution.

All candidates are judged in one call: a cost takes (candidates, dimensions) and returns (candidates,), for networks
`torch.func.vmap` of `functional_call`, see `population_outputs`. Bounds are kept by cutting off.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

Cost = Callable[[Tensor], Tensor]
"""Candidates (candidates, dimensions) -> what is to be small, (candidates,)."""


@dataclass(frozen=True)
class Swarm:
    """Settings of a particle swarm; the defaults are BIRDNN's (Liang et al., 2024)."""

    particles: int = 20
    iterations: int = 100
    own: float = 0.41  # c1, pull towards a particle's own best
    common: float = 0.41  # c2, pull towards the best of all
    inertia: float = 0.8


@dataclass(frozen=True)
class Evolution:
    """Settings of differential evolution; the defaults are Arachne's (Sohn et al., 2023)."""

    members: int = 100
    generations: int = 100
    least_factor: float = 0.5  # F is drawn anew for every candidate between the two
    most_factor: float = 1.0
    crossover: float = 0.7


@dataclass(frozen=True)
class Best:
    """The best candidate (dimensions,), its cost, and the best cost after each iteration, from the start on."""

    values: Tensor
    cost: float
    history: tuple[float, ...]


def swarm(cost: Cost, starts: Tensor, low: float, high: float, settings: Swarm, generator: torch.Generator) -> Best:
    """The best position that a particle swarm finds within [low, high] in every dimension, see `swarming`."""
    return _last(swarming(cost, starts, low, high, settings, generator))


def evolve(
    cost: Cost, starts: Tensor, low: float, high: float, settings: Evolution, generator: torch.Generator
) -> Best:
    """The best member that differential evolution finds within [low, high] in every dimension, see `evolving`."""
    return _last(evolving(cost, starts, low, high, settings, generator))


def swarming(
    cost: Cost, starts: Tensor, low: float, high: float, settings: Swarm, generator: torch.Generator
) -> Iterator[Best]:
    """The best position so far, at the start and after each iteration of a particle swarm.

    J. Kennedy and R. Eberhart (ICNN 1995) with the inertia of Y. Shi and R. Eberhart (1998):
    v = inertia v + c1 r1 (own best - x) + c2 r2 (best of all - x), x = x + v, with r1, r2 uniform in [0, 1) for each
    particle and dimension. `starts` (rows, dimensions) are the first particles, the others are drawn uniformly, so a
    start of zeros (no change) is never lost: what is returned is at least as good.
    """
    places = _population(starts, settings.particles, low, high, generator)
    speeds = torch.zeros_like(places)
    own, own_cost = places.clone(), cost(places)
    history = [float(own_cost.min())]
    yield _best(own, own_cost, history)
    for _ in range(settings.iterations):
        best = own[own_cost.argmin()]
        first, second = (torch.rand(places.shape, generator=generator, dtype=places.dtype) for _ in range(2))
        speeds = settings.inertia * speeds + settings.own * first * (own - places)
        speeds = speeds + settings.common * second * (best - places)
        places = (places + speeds).clamp(low, high)
        found = cost(places)
        better = found < own_cost
        own, own_cost = torch.where(better[:, None], places, own), torch.where(better, found, own_cost)
        history.append(float(own_cost.min()))
        yield _best(own, own_cost, history)


def evolving(
    cost: Cost, starts: Tensor, low: float, high: float, settings: Evolution, generator: torch.Generator
) -> Iterator[Best]:
    """The best member so far, at the start and after each generation of differential evolution.

    R. Storn and K. Price, "Differential evolution" (Journal of Global Optimization 11, 1997), DE/rand/1/bin: a mutant
    a + F (b - c) of three other members is crossed with each member, at least one dimension from the mutant, and
    replaces it where it is no worse. `starts` as for `swarming`.
    """
    if settings.members < 4:
        raise ValueError(f"differential evolution needs at least 4 members, got {settings.members}")
    members = _population(starts, settings.members, low, high, generator)
    costs = cost(members)
    history = [float(costs.min())]
    yield _best(members, costs, history)
    n, dimensions = members.shape
    for _ in range(settings.generations):
        keys = torch.rand(n, n, generator=generator).fill_diagonal_(torch.inf)
        a, b, c = (members[index] for index in keys.argsort(-1)[:, :3].T)
        factor = torch.rand(n, 1, generator=generator, dtype=members.dtype)
        factor = settings.least_factor + (settings.most_factor - settings.least_factor) * factor
        crossed = torch.rand(n, dimensions, generator=generator) < settings.crossover
        crossed[torch.arange(n), torch.randint(dimensions, (n,), generator=generator)] = True
        trial = torch.where(crossed, a + factor * (b - c), members).clamp(low, high)
        found = cost(trial)
        better = found <= costs
        members, costs = torch.where(better[:, None], trial, members), torch.where(better, found, costs)
        history.append(float(costs.min()))
        yield _best(members, costs, history)


def population_outputs(network: nn.Module, weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """Outputs (candidates, n, outputs) of a network with weights of (candidates, ...) each, in one forward pass.

    Weights that are not named stay the network's own and are shared by all candidates.
    """

    def one(candidate: dict[str, Tensor]) -> Tensor:
        outputs: Tensor = functional_call(network, candidate, (inputs,))
        return outputs

    return vmap(one)(weights)


def _population(starts: Tensor, size: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """`starts` and uniform draws, (size, dimensions)."""
    if starts.ndim != 2 or len(starts) > size or not low < high:
        raise ValueError(f"expected starts (at most {size}, dimensions) and low < high, got {tuple(starts.shape)}")
    rest = torch.rand(size - len(starts), starts.shape[1], generator=generator, dtype=starts.dtype)
    return torch.cat([starts, low + rest * (high - low)]).clamp(low, high)


def _best(places: Tensor, costs: Tensor, history: list[float]) -> Best:
    return Best(places[costs.argmin()].clone(), float(costs.min()), tuple(history))


def _last(found: Iterator[Best]) -> Best:
    *_, last = found
    return last
