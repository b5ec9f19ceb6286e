"""The released operators: what each does to an image, slips included."""

import numpy as np
import pytest

import operators


@pytest.mark.parametrize("operator", operators.OPERATORS, ids=lambda operator: operator.__name__)
@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3)])
def test_every_operator_makes_a_new_image_of_the_same_kind(
    operator: operators.Operator, shape: tuple[int, ...]
) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    before = image.copy()
    results = [operator(image, np.random.default_rng(seed)) for seed in range(20)]
    assert all(result.shape == shape and result.dtype == np.uint8 for result in results)
    assert any((result != image).any() for result in results)
    assert (image == before).all()
    assert (operator(image, np.random.default_rng(3)) == results[3]).all()


def test_casting_truncates_and_wraps_around() -> None:
    assert operators._cast(np.array([325.9, 255.9, 0.7, -0.3, -1.2])).tolist() == [69, 255, 0, 0, 255]


def test_gaussian_noise_darkens_by_half_a_grey_level() -> None:
    image = np.full((100, 100, 1), 100, np.uint8)
    noisy = operators.gaussian_noise(image, np.random.default_rng(0))
    assert set(np.unique(noisy)) <= {98, 99, 100, 101}
    assert abs(noisy.mean() - 99.5) < 0.03  # four standard errors of a mean of 10,000 coins, and the rare 101s


def test_salt_and_pepper_changes_at_most_its_share() -> None:
    image = np.full((28, 28, 1), 100, np.uint8)
    noisy = operators.salt_and_pepper(image, np.random.default_rng(0))
    assert 0 < (noisy == 255).sum() <= 2  # 0.2 % of 784, rounded up
    assert 0 < (noisy == 0).sum() <= 2


def test_random_values_changes_zero_to_nine_values() -> None:
    image = np.full((64, 64, 1), 100, np.uint8)
    counts = [int((operators.random_values(image, np.random.default_rng(seed)) != 100).sum()) for seed in range(400)]
    assert min(counts) == 0
    assert max(counts) == 9
    assert abs(np.mean(counts) - 4.5) < 0.6  # four standard errors
