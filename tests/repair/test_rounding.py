"""Learned rounding: the better of two integers is found, what is written is whole, and nothing moved is nothing."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dflare.errors import InputError
from repair.compression import Compressed, Quantized
from repair.data import Examples, Mixture, RepairData
from repair.fit import Schedule, fit, fit_steps
from repair.integers.rounding import Rounded, Undecided, rectified
from repair.integers.scales import Rescaled
from repair.losses import imitation
from repair.recipes import Recipe
from repair.trainable import Trainable

SCHEDULE = Schedule(steps=20, learning_rate=1.0, validate_every=5, patience=100)


class Layer(nn.Module):
    """One linear layer without a bias, in which training mode means nothing."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def train(self, mode: bool = True) -> "Layer":
        return self

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


def grid(scale: float = 1.0, low: int = -8, high: int = 7) -> Quantized:
    return Quantized(torch.tensor(scale), torch.tensor(0.0), low, high)


def learn(weight: Tensor, x: Tensor, steps: int = 400) -> Tensor:
    """Weights rounded so that the layer computes what it did: the method on its own, (rows, columns)."""
    rounded = Rounded(grid(), weight)
    layer = Layer(rounded.start())
    student, penalty = Compressed(layer, {"weight": rounded}), Undecided(["weight"], steps, strength=0.01)
    optimizer = torch.optim.Adam(layer.parameters(), 0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        ((student(x) - x @ weight.T).square().mean() + penalty(student)).backward()
        optimizer.step()
    with torch.no_grad():
        return student.weights()["weight"]


def test_where_the_nearest_integers_are_worse_the_better_ones_are_found():
    """Weights (0.45, 0.35) on pixels (1, 1) make 0.8. Rounded to the nearest, (0, 0), they make 0: an error of 0.8.

    Of the four ways (1, 0) and (0, 1) make 1, an error of 0.2, and (1, 1) makes 2.
    """
    weight, x = torch.tensor([[0.45, 0.35]]), torch.tensor([[1.0, 1.0]])
    assert grid()(weight).tolist() == [[0, 0]]
    assert learn(weight, x).tolist() == [[1, 0]]


def test_the_best_of_all_roundings_is_found_where_all_can_be_tried():
    generator = torch.Generator().manual_seed(3)
    weight, x = torch.rand(1, 4, generator=generator) * 4 - 2, torch.rand(20, 4, generator=generator)

    def error(rounded: Tensor) -> float:
        return float((x @ (rounded - weight).T).square().mean())

    tried = [weight.floor() + torch.tensor(ups) for ups in itertools.product((0.0, 1.0), repeat=4)]
    found = learn(weight, x)
    assert error(found) == pytest.approx(min(map(error, tried)))
    assert error(found) < error(grid()(weight)) / 2


def test_the_start_is_the_weight_and_what_is_written_is_whole_and_inside_the_range():
    weight = torch.tensor([0.25, -3.6, 6.9, -8.0, 7.0])
    rounded = Rounded(grid(), weight)
    soft = rounded(rounded.start().requires_grad_())
    assert soft.tolist() == pytest.approx([0.25, -3.6, 6.9, -7.99, 7.0])
    with torch.no_grad():
        assert rounded(rounded.start()).tolist() == [0, -4, 7, -8, 7]
        assert rounded(torch.full((5,), 9.0)).tolist() == [1, -3, 7, -7, 7]
        assert rounded(torch.full((5,), -9.0)).tolist() == [0, -4, 6, -8, 7]


def test_the_penalty_is_equation_24_and_its_exponent_falls_from_20_to_2():
    student, penalty = Compressed(Layer(torch.tensor([[0.3, -1.0]])), {}), Undecided(["weight"], 10, strength=0.5)
    costs = [penalty(student).item() for _ in range(11)]
    h = rectified(torch.tensor([0.3, -1.0]))
    assert costs[:2] == [0, 0]  # the first fifth
    for step, beta in ((2, 20.0), (6, 11.0), (10, 2.0)):
        assert costs[step] == pytest.approx(0.5 * float((1 - (2 * h - 1).abs() ** beta).sum()))


def test_on_a_grid_that_is_trained_the_integer_below_is_that_of_the_scale():
    rounded = Rounded(Rescaled(grid(0.1), {"s": torch.tensor(0.1)}, gain=True), torch.tensor([0.34]))
    with torch.no_grad():
        assert rounded(torch.tensor([9.0]), torch.tensor(0.1)).tolist() == pytest.approx([0.4])
        assert rounded(torch.tensor([9.0]), torch.tensor(0.2)).tolist() == pytest.approx([0.4])
        assert rounded(torch.tensor([-9.0]), torch.tensor(0.2)).tolist() == pytest.approx([0.2])


def examples(n: int, seed: int) -> Examples:
    images = torch.randint(0, 256, (n, 1, 2, 2), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Examples(images, (images.float().flatten(1)[:, :3] / 60).softmax(-1))


def data() -> RepairData:
    return RepairData(Mixture(examples(40, 1), examples(40, 2), 16, 0.5, 0), 5, examples(20, 3), examples(20, 4))


def opened() -> Trainable:
    integers = torch.randint(-7, 7, (3, 4), generator=torch.Generator().manual_seed(0)).float()
    module = Layer(integers * 0.25)
    return Trainable(module, {"weight": grid(0.25)}, lambda weights, path: None, lambda path: None)


RECIPE = Recipe(rounding="learned")


def test_every_weight_stays_or_goes_to_one_neighbour_and_some_go():
    before = opened().module.get_parameter("weight")
    after = fit_steps(opened(), data(), RECIPE, SCHEDULE, 20).weights["weight"]
    steps = ((after - before) / 0.25).tolist()
    assert {step for row in steps for step in row} <= {-1.0, 0.0, 1.0}
    assert any(step for row in steps for step in row)
    batch = examples(40, 1).batch(slice(None), is_trigger=True)
    pixels = batch.images.flatten(1)
    losses = [imitation(pixels @ weight.T, batch)["triggers"].item() for weight in (before, after)]
    assert losses[1] < losses[0]


def test_no_step_moves_no_weight():
    still = Schedule(steps=5, learning_rate=0.0, validate_every=5, patience=100)
    fitted = fit_steps(opened(), data(), RECIPE, still, 5)
    assert torch.equal(fitted.weights["weight"], opened().module.get_parameter("weight"))


def test_an_interrupted_training_ends_as_if_it_had_not_been(tmp_path: Path):
    whole = fit(opened(), data(), RECIPE, SCHEDULE, tmp_path / "whole")
    broken = data()
    load, seen = broken.train_dataloader, []

    def fail_later():
        seen.append(1)
        if len(seen) == 3:
            raise RuntimeError("power cut")
        return load()

    broken.train_dataloader = fail_later  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="power cut"):
        fit(opened(), broken, RECIPE, SCHEDULE, tmp_path / "parts")
    again = fit(opened(), data(), RECIPE, SCHEDULE, tmp_path / "parts")
    assert (again.steps, again.score) == (whole.steps, whole.score)
    assert torch.equal(again.weights["weight"], whole.weights["weight"])
    first, second = (torch.load(tmp_path / part / "last.ckpt", weights_only=True) for part in ("whole", "parts"))
    assert first["state_dict"].keys() == second["state_dict"].keys()
    assert all(torch.equal(value, second["state_dict"][name]) for name, value in first["state_dict"].items())


def test_a_model_without_integers_has_nothing_to_round():
    floats = Trainable(Layer(torch.rand(3, 4)), {}, lambda weights, path: None, lambda path: None)
    with pytest.raises(InputError, match="rounding=learned of the repair's recipe needs free weights on grids"):
        fit_steps(floats, data(), RECIPE, SCHEDULE, 1)
    with pytest.raises(InputError, match="rounding must be one of nearest, learned, got 'up'"):
        Recipe(rounding="up")
