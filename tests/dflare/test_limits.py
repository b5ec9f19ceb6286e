"""Limits on the distance from the seed."""

import pytest
import torch
from torch import Tensor

from dflare.distances import l_2, l_inf, ssim
from dflare.errors import InputError
from dflare.limits import Limits

LIMITS = {
    "none": Limits(),
    "l_inf": Limits(l_inf=0.1),
    "l_2": Limits(l_2=1.5),
    "ssim": Limits(ssim=0.8),
    "all": Limits(l_inf=8 / 255, l_2=0.9, ssim=0.95),
    "one grey level": Limits(l_inf=1 / 255),
    "nearly nothing": Limits(l_2=1 / 255, ssim=0.999999),
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=list(LIMITS.values()), ids=list(LIMITS))
def limits(request: pytest.FixtureRequest) -> Limits:
    return request.param


@pytest.fixture
def origin() -> Tensor:
    return noise(8, 3, 12, 12)


@pytest.fixture
def images(origin: Tensor) -> Tensor:
    """From the seed itself, by faint changes, to pure noise."""
    share = torch.linspace(0, 1, 8).view(-1, 1, 1, 1)
    return (origin * (1 - share) + noise(8, 3, 12, 12, seed=1) * share).round().to(torch.uint8)


def test_held_images_respect_the_limits(limits: Limits, origin: Tensor, images: Tensor) -> None:
    assert limits.respected(origin, limits.hold(origin, images)).all()


def test_holding_twice_is_holding_once(limits: Limits, origin: Tensor, images: Tensor) -> None:
    held = limits.hold(origin, images)
    assert torch.equal(limits.hold(origin, held), held)


def test_images_inside_the_limits_stay_as_they_are(limits: Limits, origin: Tensor, images: Tensor) -> None:
    inside = limits.respected(origin, images)
    assert inside[0]  # the seed itself
    assert torch.equal(limits.hold(origin, images)[inside], images[inside])


def test_holding_is_the_same_in_any_batch(limits: Limits, origin: Tensor, images: Tensor) -> None:
    alone = [limits.hold(origin[row : row + 1], images[row : row + 1]) for row in range(8)]
    assert torch.equal(limits.hold(origin, images), torch.cat(alone))


def test_holding_never_moves_a_value_away_from_the_seed(limits: Limits, origin: Tensor, images: Tensor) -> None:
    held, before = limits.hold(origin, images).int() - origin.int(), images.int() - origin.int()
    assert (held.abs() <= before.abs()).all()
    assert (held * before >= 0).all()


def test_no_limits_are_the_identity(origin: Tensor, images: Tensor) -> None:
    assert torch.equal(Limits().hold(origin, images), images)
    assert Limits().respected(origin, images).all()


def test_limits_are_used_up_where_the_image_was_beyond_them(origin: Tensor, images: Tensor) -> None:
    far = slice(4, 8)
    origin, images = origin[far], images[far]
    assert l_inf(Limits(l_inf=8 / 255).hold(origin, images), origin).tolist() == [8 / 255] * 4
    two = l_2(Limits(l_2=1.5).hold(origin, images), origin)
    assert ((two <= 1.5) & (two > 1.4)).all()  # rounding towards the seed costs up to a grey level a value
    similar = ssim(Limits(ssim=0.8).hold(origin, images), origin)
    assert ((similar >= 0.8) & (similar < 0.83)).all()


def test_the_limit_itself_is_allowed() -> None:
    origin = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    for levels in range(1, 256):
        assert Limits(l_inf=levels / 255, l_2=4 * levels / 255).respected(origin, torch.full_like(origin, levels)).all()


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("l_inf", 0.0, "search.max_l_inf"),
        ("l_inf", 0.003, "search.max_l_inf"),
        ("l_2", -1.0, "search.max_l_2"),
        ("l_2", float("nan"), "search.max_l_2"),
        ("l_2", float("inf"), "search.max_l_2"),
        ("ssim", 0.0, "search.min_ssim"),
        ("ssim", 1.0, "search.min_ssim"),
        ("ssim", float("nan"), "search.min_ssim"),
    ],
)
def test_senseless_limits_are_refused_by_their_key(name: str, value: float, key: str) -> None:
    with pytest.raises(InputError, match=rf"{key} must be .*, got {value}"):
        Limits(**{name: value})
