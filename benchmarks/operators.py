"""The seven image operators of DFLARE as its released code applies them, one image at a time, with OpenCV.

Written anew after the behaviour of github.com/yqtianust/DFlare (`myLib/img_mutations.py`), slips included: noise is
truncated to uint8 and wraps around, so that 382 becomes 126 and zero-mean noise darkens by half a grey level.
"""

from collections.abc import Callable
from math import ceil, sqrt

import cv2
import numpy as np

Operator = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""An image (height, width, channels) uint8 and the randomness -> a new image of the same shape, uint8."""

cv2.setNumThreads(1)


def gaussian_noise(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Add normal noise of variance 0.1 on the 0-255 scale, truncated and wrapped around."""
    return _cast(image + random.normal(0, sqrt(0.1), image.shape))


def salt_and_pepper(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Set 0.2 % of the values to 255, then 0.2 % to 0, rounded up; places are drawn with replacement."""
    noisy, count = image.copy(), ceil(0.004 * image.size * 0.5)
    for value in (255, 0):
        noisy[tuple(random.integers(0, size, count) for size in image.shape)] = value
    return noisy


def speckle_noise(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Multiply by 1 + noise of mean in [-0.5, 0.5] and variance in [0, 0.05]; truncated and wrapped around."""
    mean, deviation = random.random() - 0.5, sqrt(0.05 * random.random())
    return _cast(image + image * random.normal(mean, deviation, image.shape))


def random_values(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Give 0 to 9 values (single channels of pixels) a random grey level."""
    changed = image.copy()
    places = random.integers(0, image.size, random.integers(0, 10))
    changed.reshape(-1)[places] = random.integers(0, 256, len(places))
    return changed


def average_blur(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Mean over a square of 1 to 5 pixels a side."""
    side = int(random.integers(1, 6))
    return cv2.blur(image, (side, side)).reshape(image.shape)


def gaussian_blur(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Gaussian blur of 1, 3, 5 or 7 pixels a side; OpenCV derives sigma from the side."""
    side = 1 + 2 * int(random.integers(4))
    return cv2.GaussianBlur(image, (side, side), 0).reshape(image.shape)


def median_blur(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Median over a square of 1, 3, 5 or 7 pixels a side."""
    return cv2.medianBlur(image, 1 + 2 * int(random.integers(4))).reshape(image.shape)


OPERATORS: tuple[Operator, ...] = (
    gaussian_noise,
    salt_and_pepper,
    speckle_noise,
    random_values,
    average_blur,
    gaussian_blur,
    median_blur,
)


def _cast(values: np.ndarray) -> np.ndarray:
    """What the cast in the authors' code does: towards zero, then modulo 256; through int64, where it is defined."""
    return values.astype(np.int64).astype(np.uint8)
