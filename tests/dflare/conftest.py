"""The toy world of the search: two brightness thresholds, so that the deviating images are known in closed form."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dflare.classifiers import ModelPair
from dflare.seeds import Seeds, pixel_hash

DARK, BRIGHT = 8000, 8160
"""Sums of grey levels of 8 x 8 pixels beyond which the compressed and the original model say "bright"."""


class Brightness:
    """Says class 1 when the grey levels sum up to more than the threshold; exact, so the same in every batch."""

    def __init__(self, threshold: int) -> None:
        self.threshold = threshold
        self.sizes: list[int] = []  # of the batches asked

    def __call__(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        margin = ((images * 255).round().sum((1, 2, 3)) - self.threshold) / 400
        return torch.stack([-margin, margin], dim=-1)


@pytest.fixture(scope="session")
def toy_pair() -> Callable[[], ModelPair]:
    """Makes fresh pairs that deviate exactly where 8000 < sum of grey levels < 8160."""
    return lambda: ModelPair(Brightness(BRIGHT), Brightness(DARK))


@pytest.fixture(scope="session")
def toy_gradients() -> Callable[[Tensor, Tensor], Tensor]:
    """Gradients of p_original[label] - p_compressed[label] of the toy pair by the grey levels, in closed form."""

    def slope(images: Tensor, threshold: int) -> Tensor:
        bright = ((images.long().sum((1, 2, 3)) - threshold) / 200).sigmoid()
        return bright * (1 - bright) / 200

    def gradients(images: Tensor, labels: Tensor) -> Tensor:
        rise = (slope(images, BRIGHT) - slope(images, DARK)) * (2 * labels - 1)
        return rise.view(-1, 1, 1, 1).expand(images.shape)

    return gradients


@pytest.fixture(scope="session")
def noise_seeds() -> Callable[..., Seeds]:
    """Makes n different noise images (n, 1, 8, 8), darker than both thresholds for `high` up to 200."""

    def make(n: int, high: int = 200, seed: int = 0) -> Seeds:
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, high, (n, 1, 8, 8), dtype=torch.uint8, generator=generator)
        return Seeds(images, pixel_hash(images))

    return make
