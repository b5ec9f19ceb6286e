"""Repairs of balls: known corners, what must stay as it is, and models that stay compressed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dflare.errors import InputError
from repair.compression import Compressed, Plan, Pruned, Quantized, check_plan
from repair.properties.ball_imitation import nearest_of_class, retrain_balls
from repair.properties.balls import Balls, margins
from repair.properties.birdnn import Retraining
from repair.properties.robustness import Others, RobustRepair, RobustSettings, repair_balls
from repair.trainable import Trainable

SHORT = RobustSettings(steps=60, look=20, batch=16, rate=0.05)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trainable(module: nn.Module, plan: Plan | None = None) -> Trainable:
    def write(weights: object, path: Path) -> None: ...

    return Trainable(module, plan or {}, write, lambda path: None)


def linear(plan: Callable[[Tensor], Plan] | None = None) -> Trainable:
    """Two classes of four pixels: class 1 leads by x0 + x1 - x2 - x3."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    layer = module[1]
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-0.5, -0.5, 0.5, 0.5], [0.5, 0.5, -0.5, -0.5]]))
        layer.bias.zero_()
    return trainable(module, plan(layer.weight) if plan else None)


def data(radius: float = 0.1) -> tuple[Balls, Others]:
    """Balls of class 0 that class 1 takes by a corner or whole, and others of both classes that lie far away."""
    low = torch.tensor([[0.5, 0.4, 0.45, 0.55], [0.5, 0.45, 0.4, 0.5], [0.6, 0.2, 0.45, 0.3]])
    far = torch.tensor([[0.9, 0.8, 0.1, 0.2], [0.8, 0.9, 0.2, 0.1], [0.1, 0.2, 0.9, 0.7], [0.2, 0.2, 0.8, 0.9]])
    right = torch.tensor([1, 1, 0, 0])
    others = Balls(far.view(-1, 1, 2, 2), right, radius)
    return Balls(low.view(-1, 1, 2, 2), torch.zeros(3, dtype=torch.int64), radius), Others(
        others, others.centres, right
    )


def worst_margins(weights: dict[str, Tensor], balls: Balls) -> Tensor:
    """Of a linear classifier of two classes, on paper: the margin at the corner that its weights point to."""
    weight, bias = weights["1.weight"], weights["1.bias"]
    towards = weight[1 - balls.wanted] - weight[balls.wanted]
    low, high = (ends.flatten(1) for ends in balls.bounds())
    corner = torch.where(towards > 0, high, low)
    return (towards * corner).sum(-1) + bias[1 - balls.wanted] - bias[balls.wanted]


def repaired(opened: Trainable, settings: RobustSettings = SHORT, seed: int = 0) -> RobustRepair:
    bad, others = data()
    return repair_balls(opened, bad, others, generator(seed), settings)


def test_after_a_repair_the_worst_corners_of_a_linear_classifier_are_right():
    bad, others = data()
    opened = linear()
    before = dict(opened.module.named_parameters())
    assert (worst_margins(before, bad) >= 0).all()
    assert (worst_margins(before, others.good) < 0).all()
    found = repaired(opened)
    weights = dict(found.weights)
    assert (worst_margins(weights, bad) < 0).all()
    assert (worst_margins(weights, others.good) < 0).all()
    assert (found.remaining, found.broken) == (0, 0)


def test_a_repair_of_centres_alone_leaves_corners_wrong():
    """What the attacks are for: with a tiny ball the centres come right, and their surroundings do not."""
    bad, others = data()
    small, good = Balls(bad.centres, bad.wanted, 1e-4), Balls(others.good.centres, others.good.wanted, 1e-4)
    settings = RobustSettings(steps=60, look=20, margin=0.01, rate=0.05)
    found = repair_balls(linear(), small, Others(good, others.clean, others.wanted), generator(), settings)
    assert found.remaining == 0
    assert (worst_margins(dict(found.weights), bad) >= 0).any()


def test_repairing_what_is_already_good_changes_nothing():
    _, others = data()
    opened = linear()
    before = {name: weight.detach().clone() for name, weight in opened.module.named_parameters()}
    found = repair_balls(opened, others.good, others, generator(), SHORT)
    assert all(torch.equal(found.weights[name], weight) for name, weight in before.items())
    imitated = retrain_balls(opened, others.good, others, generator())
    assert imitated.steps == 0
    assert all(torch.equal(imitated.weights[name], weight) for name, weight in before.items())


@pytest.mark.parametrize("repair", [lambda *args: repair_balls(*args, SHORT), retrain_balls])
def test_the_model_handed_in_stays_as_it_was_and_a_seed_decides(repair: Callable[..., RobustRepair]):
    bad, others = data()
    opened = linear()
    before = {name: weight.detach().clone() for name, weight in opened.module.named_parameters()}
    first, second = (repair(opened, bad, others, generator(3)) for _ in range(2))
    assert all(torch.equal(weight, before[name]) for name, weight in opened.module.named_parameters())
    assert all(torch.equal(first.weights[name], weight) for name, weight in second.weights.items())
    assert any(not torch.equal(first.weights[name], weight) for name, weight in before.items())


@pytest.mark.parametrize(
    "plan",
    [
        lambda weight: {"1.weight": Pruned(torch.tensor([[True, True, True, True], [True, False, True, True]]))},
        lambda weight: {"1.weight": Quantized(torch.tensor(0.05), torch.tensor(0.0), -128, 127)},
    ],
    ids=["pruned", "quantized"],
)
def test_compressed_models_stay_compressed(plan: Callable[[Tensor], Plan]):
    opened = linear(plan)
    found = repaired(opened)
    check_plan(found.weights, opened.plan)
    bad, others = data()
    assert (worst_margins(dict(found.weights), bad) < 0).all()
    assert (worst_margins(dict(found.weights), others.good) < 0).all()
    check_plan(retrain_balls(opened, bad, others, generator()).weights, opened.plan)


def test_a_convolution_is_repaired():
    torch_net = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        for index, weight in enumerate(torch_net.parameters()):
            weight.copy_(torch.randn(weight.shape, generator=generator(index)))
    opened = trainable(torch_net)
    bad, others = data()
    with torch.no_grad():
        said = Compressed(opened.module, {})(others.clean).argmax(-1)
    good = Balls(others.good.centres, said, others.good.radius)
    wanted = 1 - Compressed(opened.module, {})(bad.centres).argmax(-1)  # all wrong
    found = repair_balls(
        opened,
        Balls(bad.centres, wanted, 0.02),
        Others(Balls(good.centres, said, 0.02), others.clean, said),
        generator(),
        SHORT,
    )
    assert found.remaining < 3


def test_a_negative_imitates_the_nearest_positive_of_its_own_class():
    negative = torch.tensor([[0.0, 1.0], [5.0, 5.0]])
    positive = torch.tensor([[0.0, 1.1], [3.0, 0.0], [9.0, 0.0]])
    classes = torch.tensor([1, 0, 0])
    found = nearest_of_class(negative, torch.tensor([0, 1]), positive, classes)
    assert found.tolist() == [[3.0, 0.0], [0.0, pytest.approx(1.1)]]
    assert margins(found, torch.tensor([0, 1])).lt(0).all()  # the nearest of all would teach row 0 the wrong class
    with pytest.raises(InputError, match="expected points of class 2 that are answered rightly"):
        nearest_of_class(negative, torch.tensor([0, 2]), positive, classes)


def test_retraining_by_imitation_repairs_balls():
    bad, others = data()
    found = retrain_balls(linear(), bad, others, generator(), Retraining(epochs=200, rate=0.05))
    assert found.steps == 200
    assert margins_at_centres(found, bad).lt(0).all()
    assert (worst_margins(dict(found.weights), others.good) < 0).all()


def margins_at_centres(found: RobustRepair, balls: Balls) -> Tensor:
    scores = balls.centres.flatten(1) @ found.weights["1.weight"].T + found.weights["1.bias"]
    return margins(scores, balls.wanted)


def test_a_repair_of_nothing_is_refused():
    bad, others = data()
    with pytest.raises(ValueError, match=r"a repair needs balls, clean images and other balls of radius 0.1, got 0, 4"):
        repair_balls(linear(), bad.take(slice(0, 0)), others, generator())
    with pytest.raises(ValueError, match="a repair needs balls, got none"):
        retrain_balls(linear(), bad.take(slice(0, 0)), others, generator())
