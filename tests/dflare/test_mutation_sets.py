"""One table for all mutations; then the optional ones against their known answers and laws; then the names."""

import math
from io import BytesIO
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dflare import affine, elastic, photometric, sampling, weather
from dflare.errors import InputError
from dflare.mutation_sets import ALL, OPTIONAL, SETS, resolve
from dflare.mutations import MUTATIONS, Mutation, mutate
from dflare.random import Draws

SIZES = [(1, 1), (2, 2), (5, 3), (16, 16), (33, 20)]
TABLE = list(product(ALL, SIZES, (1, 3)))


def draws_of(n: int, step: int = 1, seed: int = 0) -> Draws:
    return Draws.of(seed, torch.arange(n), torch.full((n,), step))


def noise(n: int, channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, height, width), generator=generator).float()


def ramps(n: int, axis: int, side: int = 64) -> Tensor:
    """Images whose value is 4 times the pixel's place along an axis: what a warp does to them shows where it looked."""
    line = torch.arange(side) * 4.0
    return (line[:, None] if axis == 0 else line).expand(n, 1, side, side).contiguous()


def kolmogorov_uniform(sample: Tensor, low: float, high: float) -> float:
    """sqrt(n) * sup |empirical - uniform|; above 2.2 with probability 1e-4 when the law holds."""
    n = len(sample)
    cdf = ((sample.double().sort().values - low) / (high - low)).clamp(0, 1)
    return math.sqrt(n) * float((cdf - (torch.arange(n) + 0.5) / n).abs().max())


@pytest.mark.parametrize(("name", "size", "channels"), TABLE)
def test_a_mutation_keeps_shape_and_type_and_leaves_its_input_alone(name, size, channels):
    images = noise(24, channels, *size)
    before = images.clone()
    mutated = ALL[name](images, draws_of(24))
    assert mutated.shape == images.shape
    assert mutated.dtype == torch.float32
    assert mutated.isfinite().all()
    assert torch.equal(images, before)
    assert mutated.data_ptr() != images.data_ptr()


def alike_in_any_company(mutation: Mutation, images: Tensor, draws: Draws) -> bool:
    together = mutation(images, draws)
    companies = (torch.tensor([5]), torch.tensor([23]), torch.tensor([4, 22, 6]), torch.arange(24).flip(0))
    return all(torch.equal(mutation(images[rows], draws[rows]), together[rows]) for rows in companies)


@pytest.mark.parametrize(("name", "size", "channels"), TABLE)
def test_an_image_is_the_same_to_the_bit_whoever_else_is_in_the_batch(name, size, channels):
    assert alike_in_any_company(ALL[name], noise(24, channels, *size), draws_of(24))


def test_mutations_that_look_at_the_batch_or_at_global_random_numbers_are_caught():
    images, draws = noise(24, 1, 5, 3), draws_of(24)
    assert not alike_in_any_company(lambda images, draws: images + images.mean(), images, draws)
    generator = torch.Generator().manual_seed(0)
    assert not alike_in_any_company(lambda images, draws: images + torch.rand(1, generator=generator), images, draws)
    assert not alike_in_any_company(
        lambda images, draws: images + torch.arange(len(images)).view(-1, 1, 1, 1), images, draws
    )


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [(1, 8, 8), (3, 9, 7)])
def test_batches_of_1_7_and_256_give_the_same_bits(name, size):
    images, draws = noise(256, *size), draws_of(256)
    together = ALL[name](images, draws)
    assert torch.equal(ALL[name](images, draws), together)
    for length in (1, 7):
        parts = torch.arange(256 if length > 1 else 30).split(length)
        apart = torch.cat([ALL[name](images[rows], draws[rows]) for rows in parts])
        assert torch.equal(apart, together[: len(apart)])


@pytest.mark.parametrize("name", ALL)
def test_another_seed_or_step_gives_another_image(name):
    images = noise(64, 1, 28, 28)
    mutated = mutate(images.to(torch.uint8), torch.zeros(64), [ALL[name]], draws_of(64))
    for draws in (draws_of(64, step=2), draws_of(64, seed=1)):
        other = mutate(images.to(torch.uint8), torch.zeros(64), [ALL[name]], draws)
        assert (mutated != other).flatten(1).any(1).float().mean() > 0.5


@pytest.mark.parametrize("name", ALL)
def test_the_input_may_lie_in_memory_in_any_order(name):
    images = noise(8, 3, 8, 8)
    scattered = images.to(memory_format=torch.channels_last)
    assert torch.equal(ALL[name](scattered, draws_of(8)), ALL[name](images, draws_of(8)))


@pytest.mark.parametrize("name", OPTIONAL)
def test_large_colour_images_are_mutated_moderately(name):
    smooth = torch.nn.functional.interpolate(noise(4, 3, 8, 8), (224, 224), mode="bilinear").round()
    mutated = mutate(smooth.to(torch.uint8), torch.zeros(4), [OPTIONAL[name]], draws_of(4)).float()
    assert mutated.shape == smooth.shape
    assert 0 < (mutated - smooth).abs().mean() < 40


@pytest.mark.parametrize("name", [name for name in OPTIONAL if name not in ("brightness", "fog")])
def test_constant_images_stay_constant(name):
    images = torch.arange(256).float().view(-1, 1, 1, 1).expand(-1, 3, 9, 10)
    mutated = mutate(images.to(torch.uint8), torch.zeros(256), [OPTIONAL[name]], draws_of(256)).float()
    tolerance = 3 if name == "jpeg" else 0  # a block's mean is quantised in steps of up to 12 / 8 grey levels
    assert (mutated - images).abs().max() <= tolerance


def ones(n: int, value: int) -> Tensor:
    return torch.full((n,), value, dtype=torch.int64)


def turned(images: Tensor, matrix: list[list[int]]) -> Tensor:
    return affine.warp(images, torch.tensor(matrix).expand(len(images), 2, 2))


@pytest.mark.parametrize("size", SIZES)
def test_at_strength_zero_nothing_changes(size):
    images = noise(6, 3, *size)
    controls = torch.randint(-256, 257, (6, 2, 7, 7), generator=torch.Generator().manual_seed(0))
    octaves = [controls[:, 0].abs()[:, : cells + 3, : cells + 3] for cells in (2, 4)]
    finest = torch.full((6, 11, 11), 256)
    unit = affine.UNIT
    assert torch.equal(turned(images, [[unit, 0], [0, unit]]), images)
    assert torch.equal(elastic.deform(images, controls, ones(6, 0)), images)
    assert torch.equal(photometric.stretched(images, ones(6, 256)), images)
    assert torch.equal(weather.smear(images, ones(6, 37), ones(6, 256), 2), images)
    assert torch.equal(weather.whiten(images, [*octaves, finest], ones(6, 0)), images)


@pytest.mark.parametrize("size", SIZES)
def test_sampling_equals_bilinear_interpolation_by_hand(size):
    height, width = size
    images = noise(5, 2, *size)
    generator = torch.Generator().manual_seed(1)
    down = torch.randint(-512, 256 * height + 512, (5, *size), generator=generator, dtype=torch.int32)
    right = torch.randint(-512, 256 * width + 512, (5, *size), generator=generator, dtype=torch.int32)
    sampled = sampling.sample(images, down, right).numpy()
    for row, y, x in product(range(5), range(height), range(width)):
        v = min(max(int(down[row, y, x]) / 256, 0), height - 1)
        u = min(max(int(right[row, y, x]) / 256, 0), width - 1)
        top, left = int(v), int(u)
        bottom, beside = min(top + 1, height - 1), min(left + 1, width - 1)
        image = images[row].numpy().astype(np.float64)
        above = image[:, top, left] * (1 - u + left) + image[:, top, beside] * (u - left)
        below = image[:, bottom, left] * (1 - u + left) + image[:, bottom, beside] * (u - left)
        assert np.array_equal(sampled[row, :, y, x], above * (1 - v + top) + below * (v - top))


@pytest.mark.parametrize("side", [1, 2, 5, 16])
def test_turning_by_right_angles_moves_every_pixel_exactly(side):
    images = noise(4, 3, side, side)
    unit = affine.UNIT
    assert torch.equal(turned(images, [[0, unit], [-unit, 0]]), images.rot90(1, (2, 3)))  # anticlockwise
    assert torch.equal(turned(images, [[-unit, 0], [0, -unit]]), images.rot90(2, (2, 3)))


@pytest.mark.parametrize(("down", "right"), [(0, 0), (1, 0), (0, -2), (3, 2), (-9, 9)])
def test_shifting_by_whole_pixels_moves_every_pixel_exactly(down, right):
    images = noise(4, 3, 7, 6)
    unit = affine.UNIT
    moved = affine.warp(
        images, torch.tensor([[unit, 0], [0, unit]]).expand(4, 2, 2), torch.tensor([[down, right]]) * 256
    )
    rows = (torch.arange(7) - down).clamp(0, 6)  # borders replicated
    columns = (torch.arange(6) - right).clamp(0, 5)
    assert torch.equal(moved, images[..., rows, :][..., columns])


def test_doubling_the_scale_halves_the_slope_about_the_centre():
    half = affine.UNIT // 2
    doubled = turned(ramps(1, 1), [[half, 0], [0, half]])[0, 0]
    assert torch.equal(doubled, (126 + 2 * (torch.arange(64) - 31.5)).expand(64, 64))


def slopes(mutated: Tensor) -> tuple[Tensor, Tensor]:
    """By how much the old coordinate grows a pixel, (down, right), in the middle of mutated ramps."""
    middle = mutated[:, 0, 24:41, 24:41] / 4
    return (middle[:, -1, 8] - middle[:, 0, 8]) / 16, (middle[:, 8, -1] - middle[:, 8, 0]) / 16


def test_rotations_are_uniform_up_to_10_degrees():
    n = 1000
    down, right = slopes(affine.rotation(ramps(n, 1), draws_of(n)))
    angle = torch.rad2deg(torch.atan2(-down, right))
    assert torch.allclose(down.square() + right.square(), torch.ones(n), atol=2e-3)  # nothing is scaled
    assert kolmogorov_uniform(angle, -10, 10) < 2.2
    assert kolmogorov_uniform(angle, -20, 20) > 2.2


@pytest.mark.parametrize("axis", [0, 1])
def test_shifts_are_uniform_up_to_a_twentieth_of_each_side(axis):
    n = 1000
    moved = (ramps(1, axis) - affine.shift(ramps(n, axis), draws_of(n)))[:, 0, 32, 32] / 4
    assert kolmogorov_uniform(moved, -3.2, 3.2) < 2.2
    assert kolmogorov_uniform(moved, -6.4, 6.4) > 2.2


def test_scales_are_uniform_between_0_9_and_1_1_in_both_directions_at_once():
    n = 1000
    down, across = slopes(affine.scale(ramps(n, 0), draws_of(n)))
    assert not across.any()
    assert torch.allclose(down, slopes(affine.scale(ramps(n, 1), draws_of(n)))[1], atol=1e-3)
    assert kolmogorov_uniform(1 / down, 0.9, 1.1) < 2.2
    assert kolmogorov_uniform(1 / down, 0.8, 1.2) > 2.2


def test_shears_are_uniform_up_to_a_tenth_and_slant_rows_or_columns_equally_often():
    n = 1000
    columns, unchanged = slopes(affine.shear(ramps(n, 1), draws_of(n)))
    rows = slopes(affine.shear(ramps(n, 0), draws_of(n)))[1]
    assert torch.allclose(unchanged, torch.ones(n), atol=2e-3)
    assert not (rows * columns).any()
    assert abs(int((rows != 0).sum()) - n / 2) < 5 * math.sqrt(n) / 2
    assert kolmogorov_uniform(rows + columns, -0.1, 0.1) < 2.2
    assert kolmogorov_uniform(rows + columns, -0.2, 0.2) > 2.2


@pytest.mark.parametrize(("length", "cells"), [(1, 4), (3, 2), (28, 4), (224, 8)])
def test_a_field_of_equal_controls_is_constant_and_one_of_rising_controls_a_ramp(length, cells):
    equal = sampling.field(torch.full((2, cells + 3, cells + 3), -7), length, length)
    assert (equal == -7 * 65536**2).all()
    rising = (
        sampling.field(torch.arange(cells + 3).expand(1, cells + 3, -1) * 256, length, length)[0, 0] / 256 / 65536**2
    )
    # B-splines reproduce straight lines: control 1 stands at the left end, one cell before control 2
    expected = 1 + (torch.arange(length, dtype=torch.float64) + 0.5) * cells / length
    assert torch.allclose(rising, expected, rtol=0, atol=1e-4)


def looked_at(controls: Tensor, strength: int) -> Tensor:
    """Where elastic deformations of 64 x 64 pixels look, (n, 2, 64, 64) in pixels, down and right."""
    n = len(controls)
    return torch.cat([elastic.deform(ramps(n, axis), controls, ones(n, strength)) / 4 for axis in (0, 1)], dim=1)


def folds(controls: Tensor) -> bool:
    """Whether the deformation turns some small square over: the determinant of its derivative is negative."""
    old = looked_at(controls, 256)[..., 8:-8, 8:-8]  # without the border, where replication is flat
    down, right = old.diff(dim=-2)[..., :-1], old.diff(dim=-1)[..., :-1, :]
    return bool((down[:, 0] * right[:, 1] - down[:, 1] * right[:, 0] < 0).any())


def test_the_strongest_elastic_deformations_never_fold():
    signs = torch.randint(0, 2, (200, 2, 7, 7), generator=torch.Generator().manual_seed(0)) * 512 - 256
    assert not folds(signs)
    assert folds(signs * 2)


def test_elastic_displacements_spread_as_the_spline_says():
    n = 500
    old = torch.cat([elastic.elastic(ramps(n, axis), draws_of(n)) / 4 for axis in (0, 1)], dim=1)
    displaced = (old - looked_at(torch.zeros(1, 2, 7, 7, dtype=torch.int64), 0))[..., 16:48, 16:48]
    root_mean_square = float(displaced.double().square().mean().sqrt())
    # 9 % of 64 pixels, uniform controls and strengths (1/3 each), a cubic B-spline's mean square 151 / 315 an axis
    expected = 64 * 23 / 256 / 3 * 151 / 315
    assert abs(root_mean_square / expected - 1) < 0.1
    assert abs(root_mean_square / (expected * math.sqrt(3)) - 1) > 0.1  # were all of the largest strength


def test_brightness_adds_one_number_between_minus_25_and_25_to_every_value():
    images = noise(2000, 3, 4, 4)
    added = (photometric.brightness(images, draws_of(2000)) - images).flatten(1)
    assert (added == added[:, :1]).all()
    assert set(added[:, 0].tolist()) == set(range(-25, 26))
    assert kolmogorov_uniform(added[:, 0], -25.5, 25.5) < 2.2
    assert kolmogorov_uniform(added[:, 0].square() / 25 - 25, -25.5, 25.5) > 2.2


def test_contrast_keeps_the_mean_and_scales_the_deviation_by_0_75_to_1_25():
    images = noise(2000, 3, 6, 6)
    mutated = photometric.contrast(images, draws_of(2000))
    factor = mutated.std((2, 3)) / images.std((2, 3))
    assert torch.allclose(mutated.mean((2, 3)), images.mean((2, 3)), atol=0.01)
    assert torch.allclose(factor, factor[:, :1].expand_as(factor), atol=1e-3)
    assert kolmogorov_uniform(factor[:, 0], 0.75, 1.25) < 2.2
    assert kolmogorov_uniform(1 / factor[:, 0], 0.75, 1.25) > 2.2


def test_contrast_doubles_the_distance_to_the_mean():
    images = torch.tensor([[100.0, 110.0], [90.0, 100.0]]).view(1, 1, 2, 2)
    assert photometric.stretched(images, ones(1, 320)).flatten().tolist() == [100, 112.5, 87.5, 100]


def alone(image: np.ndarray, quality: int) -> np.ndarray:
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:4:4")
    return np.array(Image.open(file))


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("size", [*SIZES, (28, 28)])
def test_jpeg_is_what_each_image_becomes_alone(channels, size):
    images = noise(5, channels, *size)
    result = photometric.compressed(images, 80).numpy()
    for row, image in enumerate(images.to(torch.uint8).numpy()):
        if channels == 3:
            assert np.array_equal(result[row].transpose(1, 2, 0), alone(image.transpose(1, 2, 0).copy(), 80))
        else:
            assert np.array_equal(result[row], np.stack([alone(channel, 80) for channel in image]))


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_compresses_more_rows_than_one_strip_holds(channels):
    images = noise(9000, channels, 8, 8)
    assert torch.equal(photometric.compressed(images, 70)[8500:], photometric.compressed(images[8500:], 70))


def test_jpeg_errs_less_the_higher_the_quality():
    smooth = torch.nn.functional.interpolate(noise(20, 1, 4, 4), (32, 32), mode="bilinear").round()
    errors = [float((photometric.compressed(smooth, quality) - smooth).abs().mean()) for quality in (65, 80, 95, 100)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5
    assert 0.5 < errors[0] < 5


def test_jpeg_draws_its_seven_qualities_equally_often():
    n = 1400
    images = noise(1, 1, 16, 16).expand(n, -1, -1, -1)
    mutated = photometric.jpeg(images, draws_of(n))
    counts = [
        int((mutated == photometric.compressed(images[:1], quality)).flatten(1).all(1).sum())
        for quality in range(65, 100, 5)
    ]
    assert sum(counts) == n
    assert sum((count - 200) ** 2 / 200 for count in counts) < 28  # chi-squared of 6, exceeded once in 10,000


def dot(n: int, side: int) -> Tensor:
    images = torch.zeros(n, 1, side, side)
    images[:, :, side // 2, side // 2] = 240
    return images


def test_motion_blur_draws_a_line_at_its_angle():
    for degrees, pixels in [
        (0, [(3, 2), (3, 3), (3, 4)]),
        (90, [(2, 3), (3, 3), (4, 3)]),
        (45, [(2, 4), (3, 3), (4, 2)]),
    ]:
        blurred = weather.smear(dot(1, 7), ones(1, degrees), ones(1, 3 * 256), 1)[0, 0]
        assert sorted(map(tuple, blurred.nonzero().tolist())) == sorted(pixels)
        assert set(blurred[blurred > 0].tolist()) == {80.0}


def test_motion_blur_counts_the_ends_of_a_line_by_their_share():
    blurred = weather.smear(dot(1, 7), ones(1, 0), ones(1, 2 * 256), 1)[0, 0, 3]
    assert blurred.tolist() == [0, 0, 60, 120, 60, 0, 0]


@pytest.mark.parametrize(("side", "longest"), [(29, 3), (225, 225 / 21)])
def test_motion_blurs_are_uniformly_long_and_lose_no_light(side, longest):
    n = 500
    blurred = torch.cat(
        [weather.motion_blur(dot(len(rows), side), draws_of(n)[rows]) for rows in torch.arange(n).split(50)]
    )
    assert torch.allclose(blurred.sum((1, 2, 3)), torch.tensor(240.0), atol=0.01)
    length = 240 / blurred.amax((1, 2, 3))
    assert kolmogorov_uniform(length, 1, longest) < 2.2
    assert kolmogorov_uniform(length, 1, 2 * longest - 1) > 2.2


def test_fog_whitens_and_leaves_white_white():
    images = noise(200, 3, 16, 16)
    foggy = weather.fog(images, draws_of(200))
    assert (foggy >= images).all()
    assert (foggy <= images + (255 - images) / 3 + 0.01).all()
    assert (foggy.mean((1, 2, 3)) > images.mean((1, 2, 3))).float().mean() > 0.95
    assert (weather.fog(torch.full((9, 1, 8, 8), 255.0), draws_of(9)) == 255).all()


def test_the_densest_fog_covers_a_constant_share_in_every_channel():
    octaves = [torch.full((1, cells + 3, cells + 3), 256) for cells in (2, 4, 8)]
    foggy = weather.whiten(noise(1, 3, 20, 33), octaves, ones(1, 128))
    assert torch.allclose(foggy, (noise(1, 3, 20, 33) + 255) / 2, atol=0.01)


def test_fog_is_a_twelfth_of_white_on_average_over_black():
    n = 2000
    share = weather.fog(torch.zeros(n, 1, 8, 8), draws_of(n)).double().mean((1, 2, 3)) / 255
    error = 5 * float(share.std()) / math.sqrt(n)
    assert abs(float(share.mean()) - 85 / 256 / 4) < error
    assert abs(float(share.mean()) - 85 / 256 / 2) > error  # a field of ones


def test_fog_is_as_uneven_as_its_octaves_say_and_smooth():
    octaves = [draws_of(1000, step).integers(257, cells + 3, cells + 3) for step, cells in enumerate((2, 4, 8))]
    share = weather.whiten(torch.zeros(1000, 1, 32, 32), octaves, ones(1000, 256)) / 255
    uniform, spline = 1 / 12, 151 / 315  # variance of a control, a cubic B-spline's mean square
    deviation = math.sqrt(uniform * spline**2 * (5**2 + 2**2 + 1**2)) / 8
    assert abs(float(share.mean()) - 0.5) < 0.01
    assert abs(float(share.std()) / deviation - 1) < 0.05
    steepest = (5 * 2 + 2 * 4 + 1 * 8) / 8 / 32  # controls of 0 and 1 side by side in every octave
    assert share.diff(dim=-1).abs().max() < steepest + 1e-3
    assert noise(9, 1, 32, 32).diff(dim=-1).abs().max() / 255 > steepest + 1e-3


def test_resolving_keeps_the_order_expands_sets_and_drops_repeats():
    assert list(resolve(["fog", "affine", "shift", "fog", "jpeg"])) == [
        "fog",
        "rotation",
        "shift",
        "scale",
        "shear",
        "jpeg",
    ]
    assert resolve(["published"]) == MUTATIONS
    assert list(resolve(list(MUTATIONS))) == list(MUTATIONS)
    assert resolve(["optional"]) == OPTIONAL


def test_every_set_is_made_of_mutations_and_no_name_means_two_things():
    assert all(set(names) <= set(ALL) for names in SETS.values())
    assert not set(SETS) & set(ALL)
    assert set().union(*SETS.values()) == set(ALL)
    assert all(ALL[name].__name__ == name for name in ALL)


@pytest.mark.parametrize(
    ("names", "ending"),
    [
        (["gausian_noise"], "got 'gausian_noise'; did you mean gaussian_noise?"),
        (["fog", "afine"], "got 'afine'; did you mean affine?"),
        (["xyz"], "got 'xyz'"),
        ([], "got none"),
    ],
)
def test_a_wrong_name_is_refused_in_one_sentence_that_lists_the_right_ones(names, ending):
    with pytest.raises(InputError) as refusal:
        resolve(names)
    assert str(refusal.value).startswith("search.mutations must be some of published, released, affine, ")
    assert str(refusal.value).endswith(ending)
