"""The released code's operators: truncation, wrap-around, and single values, each beside the published law."""

import math

import pytest
import torch
from torch import Tensor

from dflare.mutations import MUTATIONS, mutate
from dflare.random import Draws, Purpose
from dflare.released import RELEASED, random_pixels_released, speckle_noise_released, wrapped


def draws_of(n: int, step: int = 1) -> Draws:
    return Draws.of(0, torch.arange(n), torch.full((n,), step))


def noise(n: int, channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, height, width), generator=generator).float()


def test_three_of_the_seven_differ_and_the_other_four_are_the_published_ones():
    assert len(RELEASED) == 7
    assert [name.removesuffix("_released") for name in RELEASED] == list(MUTATIONS)
    assert [name for name in RELEASED if name not in MUTATIONS] == [
        "gaussian_noise_released",
        "speckle_noise_released",
        "random_pixels_released",
    ]
    assert all(RELEASED[name] is MUTATIONS[name] for name in RELEASED if name in MUTATIONS)


def test_325_becomes_69():
    values = torch.tensor([325.0, 255.9, 256.0, 12.7, 0.0, -0.9, -1.2, -300.0, 767.5])
    assert wrapped(values).tolist() == [69, 255, 0, 12, 0, 0, 255, 212, 255]
    assert wrapped(values).tolist() == values.to(torch.int64).to(torch.uint8).tolist()  # what a cast does


@pytest.mark.parametrize("name", RELEASED)
def test_casting_the_three_different_ones_again_changes_nothing(name):
    images = noise(64, 3, 8, 8)
    mutated = RELEASED[name](images, draws_of(64))
    if name not in MUTATIONS:
        assert torch.equal(mutated, mutated.round().clamp(0, 255))
        assert torch.equal(mutate(images.to(torch.uint8), torch.zeros(64), [RELEASED[name]], draws_of(64)), mutated)


def mean_change(name: str, level: float) -> tuple[float, float]:
    """Mean change of grey images of one level, and five standard errors."""
    images = torch.full((100, 1, 64, 64), level)
    mutated = mutate(images.to(torch.uint8), torch.zeros(100), [RELEASED.get(name) or MUTATIONS[name]], draws_of(100))
    change = mutated.double() - level
    return float(change.mean()), 5 * float(change.std()) / math.sqrt(change.numel())


@pytest.mark.parametrize("level", [10.0, 100.0, 250.0])
def test_gaussian_noise_released_darkens_by_half_a_grey_level(level):
    change, error = mean_change("gaussian_noise_released", level)
    assert abs(change + 0.5) < error
    published, error = mean_change("gaussian_noise", level)
    assert abs(published) < error
    assert abs(published + 0.5) > error


def test_gaussian_noise_released_turns_some_black_values_white():
    n = 400
    mutated = RELEASED["gaussian_noise_released"](torch.zeros(n, 1, 32, 32), draws_of(n))
    share = float((mutated == 255).double().mean())
    expected = 0.5 * math.erfc(1 / math.sqrt(0.1) / math.sqrt(2))  # P(noise <= -1), 8e-4
    assert abs(share - expected) < 5 * math.sqrt(expected / mutated.numel())
    assert set(mutated.unique().tolist()) <= {0, 1, 254, 255}


def test_speckle_noise_released_is_the_published_noise_truncated_and_wrapped_around():
    images = noise(200, 3, 8, 8)
    raw = MUTATIONS["speckle_noise"](images, draws_of(200))
    mutated = speckle_noise_released(images, draws_of(200))
    assert torch.equal(mutated, raw.to(torch.int64).remainder(256).float())
    over = (raw >= 256) & (raw < 512)
    assert over.any()
    assert torch.equal(mutated[over], (raw[over] - 256).floor())  # dark, where the published one is white


def test_random_pixels_released_equals_a_loop_over_values_in_which_the_last_wins():
    images, draws = noise(200, 3, 2, 2), draws_of(200)
    counts = draws.purpose(Purpose.STRENGTH).integers(10).tolist()
    places, values = draws.purpose(Purpose.PLACE).integers(12, 9), draws.purpose(Purpose.VALUE).integers(256, 1, 9)
    expected = images.flatten(1).clone()
    for row, count in enumerate(counts):
        for k in range(count):
            expected[row, places[row, k]] = float(values[row, 0, k])
    assert torch.equal(random_pixels_released(images, draws).flatten(1), expected)


def channels_changed(name: str) -> float:
    """How many channels of a changed pixel change, on average."""
    images = torch.full((300, 3, 64, 64), 7.0)
    mutated = (RELEASED.get(name) or MUTATIONS[name])(images, draws_of(300)) != 7
    return float(mutated.sum() / mutated.any(1).sum())


def test_random_pixels_released_changes_one_channel_where_the_published_one_changes_the_pixel():
    assert 1 <= channels_changed("random_pixels_released") < 1.01
    assert channels_changed("random_pixels") > 2.9


def test_random_pixels_released_changes_none_to_nine_values_equally_often():
    n = 2000
    changed = (random_pixels_released(torch.full((n, 3, 32, 32), 7.5), draws_of(n)) != 7.5).flatten(1).sum(1)
    shares = torch.bincount(changed, minlength=10).double() / n
    assert len(shares) == 10
    assert (shares - 0.1).abs().max() < 5 * math.sqrt(0.09 / n) + 0.012  # 36 pairs of 3072 places meet in 1.2 %
