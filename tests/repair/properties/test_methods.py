"""Every repair of a property by name: one table of what all of them must do, and what the control lacks."""

from functools import partial

import pytest
import torch
from torch import nn

from repair.properties.care import care
from repair.properties.dense import Activation, DenseNetwork
from repair.properties.factors import FactorSettings
from repair.properties.judging import greatest
from repair.properties.methods import METHODS, Cost, Task, birdnn, cost, with_weights
from repair.properties.property import Box, Case, Polytope, Property
from repair.properties.walks import margins
from repair.search_based.swarm import Swarm


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    layer.weight, layer.bias = nn.Parameter(torch.tensor(weight)), nn.Parameter(torch.tensor(bias))
    return layer


def grid(low: float, high: float, n: int) -> torch.Tensor:
    return torch.linspace(low, high, n)[:, None]


def task(safe: int = 60) -> Task:
    """h = relu(x, 1 - x), y = (h0, 0.5); y0 must stay below 0.95 on [0, 1], which x > 0.95 violates."""
    network = DenseNetwork(
        [linear([[1.0], [-1.0]], [0.0, 1.0]), linear([[1.0, 0.0], [0.0, 0.0]], [0.0, 0.5])],
        [Activation("Relu"), Activation()],
    )
    unsafe = Polytope(torch.tensor([[-1.0, 0.0]]).double(), torch.tensor([-0.95]).double())
    box = Box(torch.zeros(1).double(), torch.ones(1).double())
    wanted = Property("low", 1, 2, (Case(box, (unsafe,)),))
    return Task(network, wanted, grid(0.955, 1, 40), grid(0, 0.94, safe), grid(-1, 1, 20), greatest)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Swarms of a few particles and steps, and one round of both halves."""
    small = FactorSettings(swarm=Swarm(particles=8, iterations=8))
    monkeypatch.setattr("repair.properties.methods.ROUNDS", 1)
    monkeypatch.setattr("repair.properties.methods.FactorSettings", lambda: small)
    monkeypatch.setattr("repair.properties.methods.care", partial(care, settings=small))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.usefixtures("brief")
@pytest.mark.slow
def test_every_method_leaves_its_task_alone_and_repeats_by_its_seed(name: str):
    given = task()
    before = given.network.weights()
    runs = [METHODS[name](given, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert all(torch.equal(given.network.weights()[key], value) for key, value in before.items())
    assert set(runs[0]) == set(before)
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in before)
    depth = [
        margins(given.network.with_weights(some), given.wanted, given.counterexamples).mean()
        for some in (before, runs[0])
    ]
    assert depth[1] < depth[0], "counterexamples come nearer to holding"


@pytest.mark.parametrize(("bias", "better"), [(0.0, True), (2.0, False)])
@pytest.mark.usefixtures("brief")
def test_birdnn_in_turn_costs_no_more_than_no_repair(bias: float, better: bool, monkeypatch: pytest.MonkeyPatch):
    """Both halves made to give a constant y0: 0 violates nothing and decides badly, 2 violates everywhere."""
    given = task()
    constant = {name: torch.zeros_like(value) for name, value in given.network.weights().items()}
    constant["layers.1.bias"] = torch.tensor([bias, -1.0])
    for half in ("birdnn_retrain", "birdnn_finetune"):
        monkeypatch.setattr(f"repair.properties.methods.{half}", lambda given, generator: dict(constant))
    kept = birdnn(given, torch.Generator().manual_seed(0))
    wanted = constant if better else given.network.weights()
    assert all(torch.equal(kept[name], value) for name, value in wanted.items())


def test_the_cost_counts_violations_and_lost_decisions():
    given = task()
    assert cost(given, given.network.weights()) == Cost(1.0, 1.0, 0.0)
    high = {**given.network.weights(), "layers.1.bias": torch.tensor([2.0, 0.0])}  # all violate and are decided for y0
    assert cost(given, high).violations == 2.0
    assert cost(given, high).lost == pytest.approx(float((given.safe < 0.5).double().mean()), abs=0.02)


def test_a_network_with_other_weights_is_another_network():
    network = task().network
    new = with_weights(network, {name: value + 1 for name, value in network.weights().items()})
    assert torch.equal(new.weights()["layers.0.bias"], network.weights()["layers.0.bias"] + 1)
    assert new is not network
