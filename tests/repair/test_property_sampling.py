"""Counterexamples: their share and place known in closed form, also where uniform draws meet none."""

import math

import pytest
import torch

from dflare.errors import InputError
from repair.properties.property import Box, Case, Polytope, Property
from repair.properties.sampling import draw_samples
from repair.properties.splitting import Rare, split, split_often
from repair.properties.walks import margins, walk


def ball(radius: float, inputs: int = 2) -> Property:
    """On [-1, 1]^inputs with the network `distance` unsafe inside a ball around 0."""
    box = Box(-torch.ones(inputs).double(), torch.ones(inputs).double())
    unsafe = Polytope(torch.ones(1, 1).double(), torch.tensor([radius]).double())
    return Property("ball", inputs, 1, (Case(box, (unsafe,)),))


def distance(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.square().sum(-1, keepdim=True).clamp(min=1e-20).sqrt()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_walks_spread_uniformly_over_a_disc():
    """All start at one point of the disc of radius 0.5; then E r^2 = 1/8, E x = 0, and a quarter lies in r < 1/4."""
    starts = torch.tensor([[0.49, 0.0]]).repeat(1000, 1)
    places = walk(distance, ball(0.5), starts, 12, generator())
    radius = places.norm(dim=-1)
    assert radius.max() <= 0.5
    assert places.mean(0).tolist() == pytest.approx([0, 0], abs=0.04)
    assert radius.square().mean().item() == pytest.approx(1 / 8, abs=0.012)
    assert (radius < 0.25).double().mean().item() == pytest.approx(0.25, abs=0.06)


def test_one_move_is_not_enough_to_forget_the_start():
    """The wrong case of the test above."""
    starts = torch.tensor([[0.49, 0.0]]).repeat(2000, 1)
    assert walk(distance, ball(0.5), starts, 1, generator()).mean(0)[0] > 0.1


def test_walkers_start_at_their_level_and_in_a_box():
    with pytest.raises(ValueError, match="inputs must lie in the boxes of ball, 1 do not"):
        walk(distance, ball(0.5), torch.tensor([[2.0, 0.0]]), 1, generator())


@pytest.mark.slow
def test_splitting_estimates_how_rare_a_disc_is():
    """The share of a disc is pi r^2 / 4, here 8e-7, which few uniform draws would meet."""
    radius = 1e-3
    rare = split_often(distance, ball(radius), 500, 3, generator())
    assert rare.share == pytest.approx(math.pi * radius**2 / 4, rel=0.5)
    assert (rare.inputs.norm(dim=-1) <= radius).all()


def test_runs_count_by_the_share_that_they_found(monkeypatch: pytest.MonkeyPatch):
    """Three regions, the second three times as large as the first, the third not found."""
    found = iter([Rare(torch.zeros(5, 2), 1e-6), Rare(torch.ones(7, 2), 3e-6), Rare(torch.zeros(0, 2), 0.0)])
    monkeypatch.setattr("repair.properties.splitting.split", lambda *given: next(found))
    rare = split_often(distance, ball(1.0), 400, 3, generator())
    assert rare.share == pytest.approx(4e-6 / 3)
    assert rare.inputs.mean(0).tolist() == [0.75, 0.75]


def test_splitting_of_what_is_common_is_a_uniform_draw():
    rare = split(distance, ball(1.0), 4000, generator())
    assert rare.share == pytest.approx(math.pi / 4, abs=0.03)


@pytest.mark.slow
def test_a_plateau_is_left_and_a_false_peak_is_given_up(monkeypatch: pytest.MonkeyPatch):
    """Margins of -1 everywhere but on a disc; then one that never reaches 0."""
    step = ball(0.1)
    flat = split(lambda x: distance(x).clamp(max=0.5), step, 500, generator())
    assert flat.share == pytest.approx(math.pi * 0.01 / 4, rel=0.5)
    monkeypatch.setattr("repair.properties.splitting.LEVELS", 5)
    never = split(lambda x: distance(x) + 0.2, step, 200, generator())
    assert (len(never.inputs), never.share) == (0, 0.0)


def test_samples_are_what_they_are_called():
    wanted = ball(0.5)
    samples = draw_samples(distance, wanted, 500, generator(3))
    assert (len(samples.counterexamples), len(samples.safe)) == (500, 500)
    assert (margins(distance, wanted, samples.counterexamples) >= 0).all()
    assert (margins(distance, wanted, samples.safe) < 0).all()
    assert len(samples.counterexamples.unique(dim=0)) == 500
    assert samples.method == "uniform"
    assert samples.share == pytest.approx(math.pi / 16, rel=0.05)


def test_rare_samples_spread_by_walks_from_uniform_ones(monkeypatch: pytest.MonkeyPatch):
    """Some 120 of 60,000 uniform draws lie in the disc; walks make 500 of them, uniform there: E r^2 = R^2 / 2."""
    monkeypatch.setattr("repair.properties.sampling.ENOUGH", 30)
    samples = draw_samples(distance, ball(0.05), 500, generator(3), draws=60_000)
    assert samples.method == "walks"
    assert samples.share == pytest.approx(math.pi * 0.05**2 / 4, rel=0.3)
    assert len(samples.counterexamples.unique(dim=0)) == 500
    assert samples.counterexamples.norm(dim=-1).square().mean().item() == pytest.approx(0.00125, rel=0.15)


@pytest.mark.slow
def test_rare_samples_come_from_splitting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("repair.properties.sampling.WALKERS", 200)
    samples = draw_samples(distance, ball(1e-3), 500, generator(3), draws=20_000)
    assert samples.method == "splitting"
    assert len(samples.counterexamples) == 500
    assert samples.counterexamples.norm(dim=-1).square().mean().item() == pytest.approx(0.5e-6, rel=0.15)


def test_samples_repeat_by_their_seed():
    first, again, other = (draw_samples(distance, ball(0.5), 100, generator(seed)).safe for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.slow
def test_a_property_without_counterexamples_is_said_to_have_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("repair.properties.sampling.WALKERS", 50)
    monkeypatch.setattr("repair.properties.splitting.LEVELS", 3)
    with pytest.raises(InputError, match=r"no counterexample of ball was found: not one among \d+ uniform draws"):
        draw_samples(lambda x: distance(x) + 1, ball(0.5), 100, generator(), draws=20_000)


def test_inputs_of_a_single_point_do_not_move():
    box = Box(torch.tensor([-1.0, 0.25]).double(), torch.tensor([1.0, 0.25]).double())
    unsafe = Polytope(torch.ones(1, 1).double(), torch.tensor([0.5]).double())
    wanted = Property("line", 2, 1, (Case(box, (unsafe,)),))
    places = walk(distance, wanted, torch.tensor([[0.0, 0.25]]).repeat(500, 1), 5, generator())
    assert (places[:, 1] == 0.25).all()
    assert places[:, 0].abs().max() <= math.sqrt(0.25 - 0.0625) + 1e-6
    assert places[:, 0].var().item() == pytest.approx((0.25 - 0.0625) / 3, rel=0.2)
