"""One table for all mutations; then each against its closed form, its law, or ten lines of brute force."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from dflare.mutations import MUTATIONS, mutate
from dflare.random import Draws, Purpose

SIZES = [(4, 4), (8, 8), (28, 28), (31, 17), (32, 32)]
TABLE = list(product(MUTATIONS, SIZES, (1, 3)))


def draws_of(n: int, step: int = 1) -> Draws:
    return Draws.of(0, torch.arange(n), torch.full((n,), step))


def noise(n: int, channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8, generator=generator)


def mixed(channels: int, size: tuple[int, int]) -> Tensor:
    """64 images, constant at both ends of the range and near them, and noise."""
    images = noise(64, channels, *size)
    for row, value in enumerate((0, 1, 250, 255)):
        images[row::8] = value
    return images


def apply(name: str, images: Tensor, draws: Draws) -> Tensor:
    return mutate(images, torch.zeros(len(images), dtype=torch.int64), [MUTATIONS[name]], draws)


@pytest.mark.parametrize(("name", "size", "channels"), TABLE)
def test_shape_and_type_are_kept_and_the_input_is_untouched(name, size, channels):
    images = mixed(channels, size)
    before = images.clone()
    mutated = apply(name, images, draws_of(64))
    assert mutated.dtype == torch.uint8
    assert mutated.shape == images.shape
    assert torch.equal(images, before)
    floats = images.float()
    MUTATIONS[name](floats, draws_of(64))
    assert torch.equal(floats, before.float())


@pytest.mark.parametrize(("name", "size", "channels"), TABLE)
def test_values_are_clamped_and_rounded_and_never_wrap_around(name, size, channels):
    images = mixed(channels, size)
    raw = MUTATIONS[name](images.float(), draws_of(64)).numpy()
    expected = np.rint(np.clip(raw.astype(np.float64), 0, 255))
    assert np.array_equal(apply(name, images, draws_of(64)).numpy(), expected)


@pytest.mark.parametrize(("name", "size", "channels"), TABLE)
def test_an_image_does_not_depend_on_who_else_is_in_the_batch(name, size, channels):
    images, draws = mixed(channels, size), draws_of(64)
    together = apply(name, images, draws)
    for rows in (torch.tensor([5]), torch.tensor([62]), torch.tensor([4, 61, 6]), torch.arange(64).flip(0)):
        assert torch.equal(apply(name, images[rows], draws[rows]), together[rows])


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_same_draws_give_the_same_image_and_the_next_step_another(name):
    images = noise(64, 1, 28, 28)
    assert torch.equal(apply(name, images, draws_of(64)), apply(name, images, draws_of(64)))
    other = apply(name, images, draws_of(64, step=2))
    assert (apply(name, images, draws_of(64)) != other).flatten(1).any(1).float().mean() > 0.5


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_input_may_lie_in_memory_in_any_order(name):
    images = noise(8, 3, 8, 8).to(memory_format=torch.channels_last)
    assert torch.equal(apply(name, images, draws_of(8)), apply(name, images.contiguous(), draws_of(8)))


@pytest.mark.parametrize("name", MUTATIONS)
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 3)])
def test_images_smaller_than_the_filters_are_mutated_too(name, size):
    images = noise(32, 1, *size)
    assert apply(name, images, draws_of(32)).shape == images.shape


def test_325_becomes_255_and_not_69():
    def brighter(images: Tensor, draws: Draws) -> Tensor:
        return images + 75

    def darker(images: Tensor, draws: Draws) -> Tensor:
        return images - 300

    images = torch.full((2, 1, 2, 2), 250, dtype=torch.uint8)
    mutated = mutate(images, torch.tensor([0, 1]), [brighter, darker], draws_of(2))
    assert mutated.flatten(1).tolist() == [[255] * 4, [0] * 4]
    assert (torch.tensor([325]).to(torch.uint8)).tolist() == [69]  # what a cast before the clamp would give


def test_speckle_noise_keeps_white_white_where_it_brightens():
    images = torch.full((200, 1, 8, 8), 255, dtype=torch.uint8)
    raw = MUTATIONS["speckle_noise"](images.float(), draws_of(200))
    assert raw.amax() > 325
    assert (apply("speckle_noise", images, draws_of(200))[raw >= 255] == 255).all()


def test_each_image_gets_the_mutation_chosen_for_it():
    images, names = noise(70, 1, 8, 8), list(MUTATIONS)
    choice, draws = torch.arange(70) % 7, draws_of(70)
    mutated = mutate(images, choice, list(MUTATIONS.values()), draws)
    for row in range(70):
        here = torch.tensor([row])
        assert torch.equal(mutated[here], apply(names[row % 7], images[here], draws[here]))


def share_changed(truncate: bool) -> float:
    images = torch.full((100, 1, 64, 64), 100, dtype=torch.uint8)
    raw = MUTATIONS["gaussian_noise"](images.float(), draws_of(100))
    changed = (raw.to(torch.uint8) if truncate else apply("gaussian_noise", images, draws_of(100))) != images
    return float(changed.double().mean())


def test_gaussian_noise_changes_a_pixel_when_it_exceeds_half_a_grey_level():
    expected = math.erfc(0.5 / math.sqrt(0.1) / math.sqrt(2))  # P(|z| > 0.5 / sigma) = 0.114
    tolerance = 5 * math.sqrt(expected / 409_600)
    assert abs(share_changed(truncate=False) - expected) < tolerance
    assert abs(share_changed(truncate=True) - expected) > tolerance  # the released code's truncation: one half


def distinct(size: int, count: int) -> float:
    """Expected number of different places among `count` draws with replacement."""
    return size * (1 - (1 - 1 / size) ** count)


@pytest.mark.parametrize(("size", "count"), [((28, 28), 2), ((32, 32), 3), ((64, 100), 13), ((4, 4), 1)])
def test_salt_and_pepper_set_a_five_hundredth_of_the_values_each(size, count):
    n, pixels = 2000, size[0] * size[1]
    mutated = apply("salt_and_pepper", torch.full((n, 1, *size), 128, dtype=torch.uint8), draws_of(n)).flatten(1)
    black, white = (mutated == 0).sum(1), (mutated == 255).sum(1)
    assert count == math.ceil(0.002 * pixels)
    assert black.min() >= 1
    assert black.max() == count
    assert white.max() == count
    assert ((mutated == 128).sum(1) + black + white == pixels).all()
    assert abs(black.double().mean() - distinct(pixels, count)) < 5 * count / math.sqrt(n)
    expected_white = distinct(pixels, count) * (1 - 1 / pixels) ** count  # pepper comes after salt
    assert abs(white.double().mean() - expected_white) < 5 * count / math.sqrt(n)


def kolmogorov_uniform(sample: Tensor, low: float, high: float) -> float:
    """sqrt(n) * sup |empirical - uniform|; above 2.2 with probability 1e-4 when the law holds."""
    n = len(sample)
    cdf = ((sample.double().sort().values - low) / (high - low)).clamp(0, 1)
    return math.sqrt(n) * float((cdf - (torch.arange(n) + 0.5) / n).abs().max())


def test_speckle_noise_has_a_uniform_mean_and_a_uniform_variance():
    images = torch.full((2000, 1, 32, 32), 100.0)
    factor = (MUTATIONS["speckle_noise"](images, draws_of(2000)) / 100 - 1).flatten(1)
    assert kolmogorov_uniform(factor.mean(1), -0.5, 0.5) < 2.2
    assert kolmogorov_uniform(factor.var(1), 0, 0.05) < 2.2
    uniform_deviation = factor.var(1).square() / 0.05  # what a uniform standard deviation would give
    assert kolmogorov_uniform(uniform_deviation, 0, 0.05) > 2.2


def test_speckle_noise_leaves_black_black():
    assert not apply("speckle_noise", torch.zeros(50, 1, 8, 8, dtype=torch.uint8), draws_of(50)).any()


def test_random_pixels_equals_a_loop_in_which_the_last_value_wins():
    images, draws = noise(200, 3, 2, 2), draws_of(200)  # four places for up to nine changes
    counts = draws.purpose(Purpose.STRENGTH).integers(10)
    places, values = draws.purpose(Purpose.PLACE).integers(4, 9), draws.purpose(Purpose.VALUE).integers(256, 3, 9)
    expected = images.flatten(2).clone()
    for row in range(200):
        for k in range(int(counts[row])):
            expected[row, :, places[row, k]] = values[row, :, k].to(torch.uint8)
    assert torch.equal(apply("random_pixels", images, draws).flatten(2), expected)


def test_random_pixels_changes_none_to_nine_pixels_equally_often():
    n = 2000
    images = torch.full((n, 3, 64, 64), 7, dtype=torch.uint8)
    mutated = torch.cat(
        [apply("random_pixels", images[:500], draws_of(n)[rows]) for rows in torch.arange(n).split(500)]
    )
    changed = (mutated != 7).any(1).flatten(1).sum(1)
    shares = torch.bincount(changed, minlength=10).double() / n
    assert len(shares) == 10
    assert (shares - 0.1).abs().max() < 5 * math.sqrt(0.09 / n) + 0.01  # two places meet in 0.9 % of the images at most
    values = mutated[(mutated != 7).any(1, keepdim=True).expand_as(mutated)].double()
    assert abs(values.mean() - 127.5) < 5 * math.sqrt((256**2 - 1) / 12 / len(values))


def filtered(image: np.ndarray, taps: list[int], before: int, mode: str) -> np.ndarray:
    """Brute force: every window of whole numbers summed with the outer product of taps, divided once."""
    side = len(taps)
    padded = np.pad(image.astype(np.int64), (before, side), mode=mode)  # more than needed below and right
    height, width = image.shape
    sums = np.zeros(image.shape, np.int64)
    for y, x in product(range(height), range(width)):
        sums[y, x] = (padded[y : y + side, x : x + side] * np.outer(taps, taps)).sum()
    return np.rint(sums / sum(taps) ** 2)


@pytest.mark.parametrize("size", [(8, 8), (9, 13)])
def test_average_blur_equals_the_mean_of_each_window(size):
    images, draws = noise(30, 1, *size), draws_of(30)
    sides = 1 + draws.purpose(Purpose.STRENGTH).integers(5)
    blurred = apply("average_blur", images, draws)
    assert set(sides.tolist()) == {1, 2, 3, 4, 5}
    for row, side in enumerate(sides.tolist()):
        # OpenCV's anchor is side // 2 from the left and top, its border BORDER_REFLECT_101, numpy's "reflect"
        assert np.array_equal(blurred[row, 0], filtered(images[row, 0].numpy(), [1] * side, side // 2, "reflect"))


def gaussian_taps(side: int) -> list[int]:
    """OpenCV's small_gaussian_tab, times 256."""
    tables = {1: [256], 3: [64, 128, 64], 5: [16, 64, 96, 64, 16], 7: [8, 28, 56, 72, 56, 28, 8]}
    return tables[side]


@pytest.mark.parametrize("size", [(8, 8), (9, 13)])
def test_gaussian_blur_equals_the_weighted_mean_of_each_window(size):
    images, draws = noise(30, 1, *size), draws_of(30)
    sides = 1 + 2 * draws.purpose(Purpose.STRENGTH).integers(4)
    blurred = apply("gaussian_blur", images, draws)
    assert set(sides.tolist()) == {1, 3, 5, 7}
    for row, side in enumerate(sides.tolist()):
        expected = filtered(images[row, 0].numpy(), gaussian_taps(side), side // 2, "reflect")
        assert np.array_equal(blurred[row, 0], expected)


def test_a_gaussian_of_three_pixels_has_the_taps_of_opencv():
    assert gaussian_taps(3) == [64, 128, 64]
    dot = torch.zeros(30, 1, 7, 7)
    dot[:, 0, 3, 3] = 1
    draws = draws_of(30)
    three = draws.purpose(Purpose.STRENGTH).integers(4) == 1
    spread = MUTATIONS["gaussian_blur"](dot, draws)[three][0, 0]
    assert (spread[2:5, 2:5] * 65536).tolist() == np.outer([64, 128, 64], [64, 128, 64]).tolist()
    assert int((spread > 0).sum()) == 9


@pytest.mark.parametrize("name", ["average_blur", "gaussian_blur", "median_blur"])
def test_blurs_leave_constant_images_alone(name):
    images = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    assert torch.equal(apply(name, images, draws_of(256)), images)


@pytest.mark.parametrize("size", [(8, 8), (4, 4), (9, 13)])
def test_median_blur_equals_the_median_of_each_window_with_replicated_borders(size):
    images, draws = noise(30, 1, *size), draws_of(30)
    reaches = draws.purpose(Purpose.STRENGTH).integers(4).tolist()
    blurred = apply("median_blur", images, draws)
    assert set(reaches) == {0, 1, 2, 3}
    for row, reach in enumerate(reaches):
        padded, side = np.pad(images[row, 0].numpy(), reach, mode="edge"), 2 * reach + 1
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
        assert np.array_equal(blurred[row, 0], np.median(windows, axis=(2, 3)))
