"""Distances between images against closed forms and brute force."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dflare.distances import l_0, l_2, l_inf, ssim
from dflare.errors import InputError

Distance = Callable[[Tensor, Tensor], Tensor]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def constant(value: int, *shape: int) -> Tensor:
    return torch.full(shape, value, dtype=torch.uint8)


def test_distances_of_one_changed_pixel_are_known() -> None:
    images = constant(100, 1, 3, 5, 5)
    others = images.clone()
    others[0, :, 2, 2] = torch.tensor([103, 96, 100], dtype=torch.uint8)
    assert l_inf(images, others).tolist() == [4 / 255]
    assert l_2(images, others).tolist() == [5 / 255]
    assert l_0(images, others).tolist() == [1]


def test_distances_do_not_wrap_around() -> None:
    black, white = constant(0, 1, 1, 4, 4), constant(255, 1, 1, 4, 4)
    assert l_inf(black, white).tolist() == [1.0]
    assert l_2(black, white).tolist() == [4.0]
    assert l_0(black, white).tolist() == [16]


@pytest.mark.parametrize("distance", [l_inf, l_2, l_0, ssim])
def test_distances_are_symmetric_and_the_same_in_any_batch(distance: Distance) -> None:
    images, others = noise(9, 3, 12, 14), noise(9, 3, 12, 14, seed=1)
    together = distance(images, others)
    alone = torch.cat([distance(images[row : row + 1], others[row : row + 1]) for row in range(9)])
    assert torch.equal(together, alone)
    assert torch.equal(together, distance(others, images))


@pytest.mark.parametrize("distance", [l_inf, l_2, l_0, ssim])
def test_distances_refuse_images_of_different_shapes(distance: Distance) -> None:
    with pytest.raises(InputError, match=r"equal shapes, got \(1, 1, 8, 8\) and \(1, 1, 8, 9\)"):
        distance(noise(1, 1, 8, 8), noise(1, 1, 8, 9))


@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (2, 3, 11, 11), (2, 1, 8, 6), (1, 1, 1, 1)])
def test_ssim_of_equal_images_is_exactly_one(shape: tuple[int, ...]) -> None:
    assert ssim(noise(*shape), noise(*shape)).tolist() == [1.0] * shape[0]


def test_ssim_of_constant_images_is_the_luminance_term() -> None:
    x, y = 50 / 255, 180 / 255
    luminance = (2 * x * y + 0.01**2) / (x * x + y * y + 0.01**2)
    for shape in ((1, 1, 28, 28), (1, 3, 7, 9)):
        assert ssim(constant(50, *shape), constant(180, *shape)).item() == pytest.approx(luminance, abs=1e-9)


@pytest.mark.parametrize("shape", [(2, 14, 13), (1, 5, 8)])
def test_ssim_is_that_of_a_brute_force_over_windows(shape: tuple[int, ...]) -> None:
    images = noise(1, *shape)
    others = (images.float() * 0.7 + 0.3 * noise(1, *shape, seed=1)).to(torch.uint8)
    assert ssim(images, others).item() == pytest.approx(brute_force(images[0], others[0]), abs=1e-9)


def brute_force(image: Tensor, other: Tensor) -> float:
    (channels, height, width), values = image.shape, []
    side = min(11, height, width)
    taps = torch.tensor([math.exp(-((k - (side - 1) / 2) ** 2) / (2 * 1.5**2)) for k in range(side)]).double()
    weights = taps[:, None] * taps / taps.sum() ** 2
    for c in range(channels):
        for y in range(height - side + 1):
            for x in range(width - side + 1):
                a, b = (i[c, y : y + side, x : x + side].double() / 255 for i in (image, other))
                m, n = (weights * a).sum(), (weights * b).sum()
                v, w, cov = ((weights * p).sum() for p in ((a - m) ** 2, (b - n) ** 2, (a - m) * (b - n)))
                values.append((2 * m * n + 1e-4) * (2 * cov + 9e-4) / ((m * m + n * n + 1e-4) * (v + w + 9e-4)))
    return float(sum(values) / len(values))
