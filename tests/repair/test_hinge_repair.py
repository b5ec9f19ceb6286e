"""Repair of a property: one neuron whose repair is known, one that is right already, and what each part is for."""

import pytest
import torch
from torch import nn

from repair.properties.birdnn import Retraining, fine_tune, nearest_behaviour, responsibilities, retrain
from repair.properties.care import causal_effects
from repair.properties.dense import Activation, DenseNetwork
from repair.properties.factors import FactorSettings, Neuron, most_responsible, search_factors
from repair.properties.hinge import HingeSettings, Repaired, hinge_repair
from repair.properties.property import Box, Case, Polytope, Property
from repair.properties.walks import margins
from repair.search_based.swarm import Swarm

NOTHING = torch.empty(0, 1)


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    layer.weight, layer.bias = nn.Parameter(torch.tensor(weight)), nn.Parameter(torch.tensor(bias))
    return layer


def at_most(bound: float, outputs: int = 1) -> Property:
    """On x in [0, 1] the first output must stay below the bound."""
    row = torch.zeros(1, outputs).double()
    row[0, 0] = -1
    box = Box(torch.zeros(1).double(), torch.ones(1).double())
    return Property("at most", 1, outputs, (Case(box, (Polytope(row, torch.tensor([-bound]).double()),)),))


def line() -> DenseNetwork:
    """y = x."""
    return DenseNetwork([linear([[1.0]], [0.0])], [Activation()])


def grid(low: float, high: float, n: int = 101) -> torch.Tensor:
    return torch.linspace(low, high, n)[:, None]


def test_a_line_is_bent_until_its_counterexamples_hold():
    """y = x violates y < 0.8 on [0.8, 1]; the least change flattens it: any repair has w + b < 0.8."""
    wanted, network = at_most(0.8), line()
    repaired = hinge_repair(
        network,
        wanted,
        grid(0.8, 1),
        grid(0, 0.79),
        NOTHING,
        torch.Generator().manual_seed(0),
        HingeSettings(rate=0.05, steps=80, batch=64),
    )
    weights = {name: value.item() for name, value in repaired.weights.items()}
    assert repaired.remaining == repaired.broken == 0
    assert weights["layers.0.weight"] + weights["layers.0.bias"] < 0.8
    assert weights["layers.0.bias"] == pytest.approx(0, abs=0.3)  # and what was low stays low
    assert margins(network, wanted, grid(0.8, 1)).min() >= -1e-6, "the network handed in stays as it is"


def test_without_fidelity_nothing_holds_the_network():
    """The wrong case: the same hinge alone moves safe outputs further."""
    wanted, safe = at_most(0.8), grid(0, 0.79)
    moved = {}
    for fidelity in (0.0, 3.0):
        repaired = hinge_repair(
            line(), wanted, grid(0.8, 1), safe, NOTHING, torch.Generator().manual_seed(0),
            HingeSettings(rate=0.05, steps=80, batch=64, fidelity=fidelity),
        )  # fmt: skip
        moved[fidelity] = float((line().with_weights(repaired.weights)(safe) - safe).square().mean())
    assert moved[3.0] < moved[0.0]


def test_a_repair_repeats_by_its_seed():
    runs = [
        hinge_repair(
            line(),
            at_most(0.8),
            grid(0.8, 1),
            grid(0, 0.79),
            NOTHING,
            torch.Generator().manual_seed(seed),
            HingeSettings(steps=5, batch=16),
        )
        for seed in (1, 1, 2)
    ]
    first, again, other = (run.weights["layers.0.weight"].item() for run in runs)
    assert first == again != other


def test_what_one_round_leaves_another_goes_on_with_and_no_longer_than_needed():
    """y = x, held hard: a round of few steps leaves counterexamples, and further ones with less fidelity do not."""

    def repaired(rounds: int, fidelity: float) -> Repaired:
        settings = HingeSettings(rate=0.05, steps=20, look=20, batch=64, fidelity=fidelity, rounds=rounds)
        safe, generator = grid(0, 0.79), torch.Generator().manual_seed(0)
        return hinge_repair(line(), at_most(0.8), grid(0.8, 1), safe, NOTHING, generator, settings)

    once, often, easily = repaired(1, 12.0), repaired(4, 12.0), repaired(4, 0.1)
    assert (once.steps, once.remaining > 0) == (20, True)
    assert often.steps > 20
    assert often.remaining + often.broken < once.remaining + once.broken
    assert (easily.steps, easily.remaining) == (20, 0)


def test_what_cannot_be_repaired_is_counted():
    """A network without inputs to bend: the constant y = 1 + 0 x with one step of training."""
    network = DenseNetwork([linear([[0.0]], [1.0])], [Activation()])
    repaired = hinge_repair(
        network, at_most(0.8), grid(0, 1), NOTHING, NOTHING, torch.Generator().manual_seed(0), HingeSettings(steps=1)
    )
    assert repaired.remaining == 101


def test_a_training_that_diverged_has_repaired_nothing():
    """Scores near the largest float32, whose mean is infinite: the loss is NaN, and so are the weights after it."""
    network = DenseNetwork([linear([[3e38]], [0.0])], [Activation()])
    found = hinge_repair(
        network, at_most(0.8), grid(0.9, 1), NOTHING, NOTHING, torch.Generator().manual_seed(0), HingeSettings(steps=1)
    )
    assert found.weights["layers.0.weight"].isnan().all()
    assert found.remaining == 101


def test_corrected_targets_belong_to_their_own_row():
    """The released code pairs batches of inputs with each other; here target i is the one nearest to output i."""
    positive = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    negative = torch.tensor([[9.0, 1.0], [1.0, 8.0], [0.1, 0.2], [9.9, 0.0]])
    assert nearest_behaviour(negative, positive).tolist() == positive[[1, 2, 0, 1]].tolist()


def test_retraining_imitates_the_nearest_positive_output():
    """y = x: the inputs above 0.8 learn the output at 0.79, those below keep theirs, and both fit one line."""
    found = retrain(
        line(), grid(0.8, 1), grid(0, 0.79), Retraining(epochs=300, rate=0.05), torch.Generator().manual_seed(0)
    )
    inputs = torch.cat([grid(0.8, 1), grid(0, 0.79)])
    targets = torch.cat([torch.full((101, 1), 0.79), grid(0, 0.79)])
    design = torch.cat([inputs, torch.ones_like(inputs)], 1)
    slope, offset = torch.linalg.lstsq(design, targets).solution[:, 0].tolist()
    assert found["layers.0.weight"].item() == pytest.approx(slope, abs=0.02)
    assert found["layers.0.bias"].item() == pytest.approx(offset, abs=0.02)


def test_each_counterexample_learns_its_own_target():
    """y = x: 0.8 to 1 learn 0.79, 1 to 1.2 learn 1.21; targets that changed places would make the line flat."""
    negative, positive = grid(0.8, 1.2), torch.cat([grid(0.78, 0.79), grid(1.21, 1.22)])
    settings = Retraining(epochs=100, rate=0.1, positives=0.0)
    found = retrain(line(), negative, positive, settings, torch.Generator().manual_seed(0))
    low, high = (line().with_weights(found)(torch.tensor([[x]])).item() for x in (0.8, 1.2))
    assert high - low > 0.5


def two_neurons() -> DenseNetwork:
    """h = relu(x, 1 - x), y = (h0 + 0.5 h1, h1): the first neuron alone makes y0 large where x is."""
    first = linear([[1.0], [-1.0]], [0.0, 1.0])
    return DenseNetwork([first, linear([[1.0, 0.5], [0.0, 1.0]], [0.0, 0.0])], [Activation("Relu"), Activation()])


def test_responsibilities_are_means_and_not_sums():
    """Neuron x: mean 0.9 on negatives, 0.4 on positives; ten times as many positives change nothing."""
    network = two_neurons()
    negative, positive = torch.full((10, 1), 0.9), torch.full((10, 1), 0.4)
    (few,) = responsibilities(network, negative, positive)
    (many,) = responsibilities(network, negative, positive.repeat(10, 1))
    assert few.tolist() == pytest.approx([0.5, 0.5])
    assert torch.allclose(few, many)


def test_an_intervention_blames_the_neuron_that_sways_the_property():
    """On x in [0, 1] y0 = h0 + 0.5 h1, so fixing h0 sways the margin twice as much as fixing h1."""
    (effects,) = causal_effects(two_neurons(), at_most(0.8, 2), grid(0, 1))
    assert effects[0].item() == pytest.approx(2 * effects[1].item(), rel=0.05)
    assert most_responsible([effects], 1) == [Neuron(0, 0)]


def test_fine_tuning_damps_the_neuron_to_blame():
    network, wanted = two_neurons(), at_most(0.8, 2)
    settings = FactorSettings(neurons=2, swarm=Swarm(particles=20, iterations=20))
    weights = fine_tune(
        network, wanted, grid(0.85, 1), grid(0, 0.6), lambda y: y.argmin(-1), settings, torch.Generator().manual_seed(0)
    )
    after = network.with_weights(weights)
    assert (margins(after, wanted, grid(0.85, 1)) < 0).all()
    assert (margins(after, wanted, grid(0, 0.6)) < 0).all()
    assert torch.equal(weights["layers.0.weight"], network.weights()["layers.0.weight"]), "written where it is read"


def test_repairing_what_is_good_changes_nothing():
    """A start with w = 0 costs nothing here, and no particle beats it."""
    network = two_neurons()
    weights = search_factors(
        network, at_most(9.0, 2), (grid(0.8, 1), grid(0, 0.6)), [Neuron(0, 0), Neuron(0, 1)], lambda y: y.argmin(-1),
        FactorSettings(swarm=Swarm(particles=4, iterations=3)), torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert all(torch.equal(weights[name], value) for name, value in network.weights().items())


def test_a_constant_network_scores_badly():
    """All factors 0 make y constant: nothing violates, but half of the decisions are lost, so no swarm ends there."""
    network, wanted = two_neurons(), at_most(0.8, 2)
    weights = search_factors(
        network, wanted, (grid(0.85, 1), grid(0, 0.7)), [Neuron(0, 0), Neuron(0, 1)], lambda y: y.argmin(-1),
        FactorSettings(swarm=Swarm(particles=20, iterations=20)), torch.Generator().manual_seed(0),
    )  # fmt: skip
    after = network.with_weights(weights)(grid(0, 0.7))
    kept = (after.argmin(-1) == network(grid(0, 0.7)).argmin(-1)).double().mean()
    assert kept > 0.9
