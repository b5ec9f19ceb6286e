"""Balls around images: where they end, what an attack finds in them, and how often statements about them are right."""

import pytest
import torch
from torch import Tensor

from repair.properties.ball_statements import attacked, ball_statements, pooled_statement, worst
from repair.properties.balls import Attack, Balls, attack, margins, violated

SLOPES = torch.tensor([0.5, -1.0, 2.0, -0.25])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(images: Tensor) -> Tensor:
    """Class 1 leads class 0 by SLOPES . x - 0.6."""
    lead = images.flatten(1) @ SLOPES - 0.6
    return torch.stack([torch.zeros_like(lead), lead], -1)


def balls(radius: float = 0.1, n: int = 3) -> Balls:
    """Around random images of four pixels, all of class 0."""
    return Balls(torch.rand(n, 1, 2, 2, generator=generator()), torch.zeros(n, dtype=torch.int64), radius)


def pixels(*centres: float, radius: float = 0.1) -> Balls:
    """Around images of a single pixel, all of class 0."""
    return Balls(torch.tensor(centres)[:, None, None, None], torch.zeros(len(centres), dtype=torch.int64), radius)


def from_55(images: Tensor) -> Tensor:
    """Class 1 from a first pixel of 0.55 on."""
    lead = images.flatten(1)[:, 0] - 0.55
    return torch.stack([torch.zeros_like(lead), lead], -1)


def test_a_ball_ends_at_black_and_white_and_never_beyond_its_radius():
    low, high = pixels(0.0, 0.3, 1.0).bounds()
    assert (low[0], high[2]) == (0, 1)
    centres, radius = torch.tensor([0.0, 0.3, 1.0]).double(), 0.1
    assert (high.double().flatten() <= (centres + radius)).all()
    assert (low.double().flatten() >= (centres - radius)).all()
    assert torch.allclose(high.flatten(), torch.tensor([0.1, 0.4, 1.0]))


def test_draws_are_uniform_between_the_ends():
    """Of [0, 0.1], cut off at black: mean 0.05 and variance 0.01 / 12; a ball that is not cut off would have mean 0."""
    drawn = pixels(0.0, 0.5).sample(torch.zeros(20_000, dtype=torch.int64), generator()).flatten()
    assert drawn.min() >= 0
    assert drawn.max() <= 0.1
    assert float(drawn.mean()) == pytest.approx(0.05, abs=0.001)
    assert float(drawn.var()) == pytest.approx(0.01 / 12, rel=0.03)


def test_margins_by_hand_and_ties_and_nothing_are_violations():
    scores = torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [2.0, 2.0, 0.0], [torch.nan, 0.0, 0.0]])
    wanted = torch.tensor([1, 2, 0, 1])
    assert margins(scores, wanted)[:3].tolist() == [-1.0, 1.0, 0.0]
    assert violated(scores, wanted).tolist() == [False, True, True, True]


def test_an_attack_finds_the_worst_corner_of_a_linear_classifier():
    some = balls()
    low, high = some.bounds()
    corner = torch.where(SLOPES.view(1, 2, 2) > 0, high, low)
    found = attack(linear, some, Attack(), generator())
    assert torch.equal(found, corner)
    weak = attack(linear, some, Attack(steps=0), generator())  # a uniform draw, which is no corner
    assert (margins(linear(weak), some.wanted) < margins(linear(found), some.wanted)).all()


def test_an_attack_keeps_the_best_point_that_it_met():
    """|x - 0.5| is least where the gradient turns: a long last step leads away from the best point."""

    def valley(images: Tensor) -> Tensor:
        height = -(images.flatten(1)[:, 0] - 0.5).abs()
        return torch.stack([torch.zeros_like(height), height], -1)

    some = pixels(0.45)
    start = torch.full((1, 1, 1, 1), 0.499)
    found = attack(valley, some, Attack(steps=1, first=1.0, last=1.0), generator(), start)
    assert torch.equal(found, start)


def test_a_violation_counts_only_if_the_model_asked_says_so():
    some = pixels(0.5, 0.3)
    assert attacked(from_55, from_55, some, Attack(), 1, generator()).tolist() == [True, False]
    calm = attacked(from_55, lambda images: from_55(images * 0), some, Attack(), 2, generator())
    assert calm.tolist() == [False, False]
    assert attacked(from_55, from_55, pixels(), Attack(), 1, generator()).tolist() == []


def test_statements_know_the_rate_of_all_balls_and_of_the_worst():
    """Around 0.5 a quarter of [0.4, 0.6] violates, around 0.3 nothing: 1/8 of both, 1/4 of the worst."""
    some = pixels(0.5, 0.3)
    pooled = pooled_statement(from_55, some, 20_000, 0.01, generator())
    single = ball_statements(from_55, some, 5_000, 0.01, generator())
    assert pooled.rate == pytest.approx(0.125, abs=0.01)
    assert 0.125 < pooled.bound < 0.25
    assert [one.rate for one in single] == pytest.approx([0.25, 0.0], abs=0.02)
    assert 0.25 < worst(single).bound < 0.28
    assert worst(single).delta == 0.005  # half of it for each of two balls


def test_the_bound_is_right_as_often_as_it_says_and_that_of_centres_alone_is_not():
    some, delta = pixels(0.5, 0.3), 0.1
    bounds = [pooled_statement(from_55, some, 60, delta, generator(seed)) for seed in range(200)]
    assert sum(one.bound >= 0.125 for one in bounds) / 200 >= 1 - delta - 0.04
    assert sum(one.rate >= 0.125 for one in bounds) / 200 < 0.8
    centres = [pooled_statement(from_55, pixels(0.5, 0.3, radius=1e-3), 60, delta, generator(0))]
    assert centres[0].bound < 0.125  # draws that hardly leave the centre say nothing of the ball


def test_the_property_of_balls_judges_as_they_do():
    some = balls(radius=0.2)
    images = some.sample(torch.arange(3).repeat(50), generator())
    wanted = some.as_property(2)
    assert wanted.contains(images.flatten(1)).all()
    scores = linear(images)
    assert 0 < violated(scores, some.wanted.repeat(50)).sum() < 150
    assert torch.equal(wanted.violated(images.flatten(1), scores), violated(scores, some.wanted.repeat(50)))


@pytest.mark.parametrize(
    ("centres", "wanted", "radius", "message"),
    [
        (torch.zeros(2, 4), torch.zeros(2), 0.1, r"centres must be \(n, channels, height, width\)"),
        (torch.zeros(2, 1, 2, 2), torch.zeros(3), 0.1, r"got \(2, 1, 2, 2\) and \(3,\)"),
        (torch.full((1, 1, 2, 2), 255.0), torch.zeros(1), 0.1, r"centres must lie in \[0, 1\]"),
        (torch.zeros(1, 1, 2, 2), torch.zeros(1), 0.0, r"radius must lie in \(0, 1\], got 0"),
    ],
)
def test_what_is_no_ball_is_refused(centres: Tensor, wanted: Tensor, radius: float, message: str):
    with pytest.raises(ValueError, match=message):
        Balls(centres, wanted.long(), radius)
