"""Swarm and evolution: optima known in closed form, seeds, bounds, and all candidates in one call."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from repair.search_based.swarm import Best, Evolution, Swarm, evolve, population_outputs, swarm

Optimizer = Callable[[Callable[[Tensor], Tensor], Tensor, float, float, int], Best]


def by_swarm(cost: Callable[[Tensor], Tensor], starts: Tensor, low: float, high: float, seed: int) -> Best:
    settings = Swarm(particles=40, iterations=200, own=1.5, common=1.5, inertia=0.7)
    return swarm(cost, starts, low, high, settings, torch.Generator().manual_seed(seed))


def by_evolution(cost: Callable[[Tensor], Tensor], starts: Tensor, low: float, high: float, seed: int) -> Best:
    return evolve(cost, starts, low, high, Evolution(members=40, generations=200), torch.Generator().manual_seed(seed))


OPTIMIZERS = [by_swarm, by_evolution]
OPTIMUM = torch.tensor([0.5, -1.0, 0.25])


def sphere(x: Tensor) -> Tensor:
    """Least at `OPTIMUM`, where it is 0."""
    return (x - OPTIMUM).square().sum(-1)


def rosenbrock(x: Tensor) -> Tensor:
    """H. Rosenbrock (1960): a curved valley, least at (1, 1), where it is 0."""
    return (1 - x[:, 0]) ** 2 + 100 * (x[:, 1] - x[:, 0] ** 2) ** 2


@pytest.mark.parametrize("optimize", OPTIMIZERS)
@pytest.mark.parametrize("seed", range(3))
def test_the_sphere_is_solved(optimize: Optimizer, seed: int):
    best = optimize(sphere, torch.zeros(1, 3), -2, 2, seed)
    assert best.values.tolist() == pytest.approx(OPTIMUM.tolist(), abs=1e-3)
    assert best.cost < 1e-6


@pytest.mark.parametrize("optimize", OPTIMIZERS)
def test_rosenbrocks_valley_is_followed_to_its_end(optimize: Optimizer):
    best = optimize(rosenbrock, torch.full((1, 2), -1.5), -2, 2, 0)
    assert best.values.tolist() == pytest.approx([1, 1], abs=0.02)


@pytest.mark.parametrize("optimize", OPTIMIZERS)
def test_an_optimum_outside_of_the_bounds_is_cut_off(optimize: Optimizer):
    best = optimize(sphere, torch.zeros(1, 3), -0.5, 0.5, 0)
    assert best.values.tolist() == pytest.approx([0.5, -0.5, 0.25], abs=1e-3)


@pytest.mark.parametrize("optimize", OPTIMIZERS)
def test_a_seed_repeats_and_another_does_not(optimize: Optimizer):
    first, again, other = (optimize(sphere, torch.zeros(1, 3), -2, 2, seed) for seed in (5, 5, 6))
    assert first.history == again.history
    assert first.history != other.history


@pytest.mark.parametrize("optimize", OPTIMIZERS)
def test_costs_never_rise_and_a_start_is_never_lost(optimize: Optimizer):
    best = optimize(sphere, OPTIMUM[None], -2, 2, 0)
    assert best.cost == 0
    assert torch.equal(best.values, OPTIMUM)
    history = optimize(rosenbrock, torch.zeros(1, 2), -2, 2, 0).history
    assert all(later <= earlier for earlier, later in pairwise(history))


@pytest.mark.parametrize("optimize", OPTIMIZERS)
def test_every_iteration_is_one_call(optimize: Optimizer):
    sizes = []

    def counted(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return sphere(x)

    optimize(counted, torch.zeros(1, 3), -2, 2, 0)
    assert sizes == [40] * 201


def test_the_published_constants_are_the_defaults():
    assert Swarm() == Swarm(particles=20, iterations=100, own=0.41, common=0.41, inertia=0.8)
    assert Evolution() == Evolution(members=100, generations=100, least_factor=0.5, most_factor=1.0, crossover=0.7)


def test_a_swarm_without_pull_finds_nothing():
    """The wrong case: with c1 = c2 = 0 nobody moves."""
    settings = Swarm(particles=5, iterations=50, own=0, common=0)
    best = swarm(sphere, torch.zeros(1, 3), -2, 2, settings, torch.Generator().manual_seed(0))
    assert len(set(best.history)) == 1


def test_all_candidates_go_through_the_network_at_once():
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(5, 2, 4, generator=generator)
    inputs = torch.randn(7, 3, generator=generator)
    together = population_outputs(network, {"2.weight": weights}, inputs)
    assert together.shape == (5, 7, 2)
    for candidate, outputs in zip(weights, together, strict=True):
        expected = network[1](network[0](inputs)) @ candidate.T + network[2].bias
        assert torch.allclose(outputs, expected, atol=1e-6)


def test_wrong_populations_are_refused():
    with pytest.raises(ValueError, match=r"expected starts \(at most 20, dimensions\) and low < high, got \(21, 2\)"):
        swarm(sphere, torch.zeros(21, 2), -1, 1, Swarm(), torch.Generator())
    with pytest.raises(ValueError, match="at least 4 members, got 3"):
        evolve(sphere, torch.zeros(1, 2), -1, 1, Evolution(members=3), torch.Generator())
