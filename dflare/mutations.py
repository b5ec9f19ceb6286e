"""The seven published image mutations, batched over chains.

A mutation maps images on the [0, 255] scale, float32 (n, c, h, w) with whole values, to images of the same shape, and
may leave the range: `mutate` clamps, rounds and casts once, for all of them. Ranges are those of the authors' code
(DFLARE, section 4.1); its truncation and wrap-around are not repeated here.
"""

from collections.abc import Callable, Sequence
from math import ceil, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from dflare.random import Draws, Purpose

Mutation = Callable[[Tensor, Draws], Tensor]

_REACH = 3  # of the widest blur, 7 pixels wide


def gaussian_noise(images: Tensor, draws: Draws) -> Tensor:
    """Add normal noise of variance 0.1 (in squared grey levels) to every value."""
    return images + sqrt(0.1) * draws.purpose(Purpose.VALUE).normal(*images.shape[1:])


def salt_and_pepper(images: Tensor, draws: Draws) -> Tensor:
    """Set 0.2 % of the values to 255, then 0.2 % to 0, rounded up; places are drawn with replacement."""
    size = images[0].numel()
    count = ceil(0.002 * size)
    places = draws.purpose(Purpose.PLACE).integers(size, 2, count)
    return images.flatten(1).scatter(1, places[:, 0], 255).scatter(1, places[:, 1], 0).view(images.shape)


def speckle_noise(images: Tensor, draws: Draws) -> Tensor:
    """Multiply every value by 1 + normal noise; its mean is uniform in [-0.5, 0.5], its variance in [0, 0.05]."""
    strength = draws.purpose(Purpose.STRENGTH).uniform(2)
    mean, deviation = strength[:, 0] - 0.5, (strength[:, 1] * 0.05).sqrt()
    noise = draws.purpose(Purpose.VALUE).normal(*images.shape[1:])
    return images + images * (noise * _rows(deviation) + _rows(mean))


def random_pixels(images: Tensor, draws: Draws) -> Tensor:
    """Give 0 to 9 random pixels a random value in each channel; places are drawn with replacement."""
    most, channels = 9, images.shape[1]
    count = draws.purpose(Purpose.STRENGTH).integers(most + 1)
    places = draws.purpose(Purpose.PLACE).integers(images[0, 0].numel(), most)
    values = draws.purpose(Purpose.VALUE).integers(256, channels, most).float()
    flat = images.flatten(2)
    for k in range(most):  # one after another, so that the last of two values for one place wins on every device
        changed = flat.scatter(2, places[:, None, k : k + 1].expand(-1, channels, 1), values[..., k : k + 1])
        flat = torch.where(count[:, None, None] > k, changed, flat)
    return flat.view(images.shape)


def average_blur(images: Tensor, draws: Draws) -> Tensor:
    """Mean over a square of 1 to 5 pixels a side, borders reflected."""
    return _blur(images, draws.purpose(Purpose.STRENGTH).integers(5), _BOXES)


def gaussian_blur(images: Tensor, draws: Draws) -> Tensor:
    """Binomial-like filter of 1, 3, 5 or 7 pixels a side, what OpenCV's GaussianBlur does for sigma 0; reflected."""
    return _blur(images, draws.purpose(Purpose.STRENGTH).integers(4), _GAUSSIANS)


def median_blur(images: Tensor, draws: Draws) -> Tensor:
    """Median over a square of 1, 3, 5 or 7 pixels a side, borders replicated."""
    reach = draws.purpose(Purpose.STRENGTH).integers(4)
    blurred = images.clone()
    for half in range(1, _REACH + 1):
        rows = (reach == half).nonzero().squeeze(-1)
        if len(rows):
            blurred[rows] = _median(_windows(images[rows], half)).float()
    return blurred


MUTATIONS: dict[str, Mutation] = {
    mutation.__name__: mutation
    for mutation in (
        gaussian_noise,
        salt_and_pepper,
        speckle_noise,
        random_pixels,
        average_blur,
        gaussian_blur,
        median_blur,
    )
}
"""The seven published mutations by name."""


def mutate(images: Tensor, choice: Tensor, mutations: Sequence[Mutation], draws: Draws) -> Tensor:
    """Apply `mutations[choice[i]]` to image i: uint8 (n, c, h, w) in, uint8 out, the input untouched."""
    mutated = images.float()
    for index, mutation in enumerate(mutations):
        rows = (choice == index).nonzero().squeeze(-1)
        if len(rows):
            mutated[rows] = mutation(mutated[rows], draws[rows])
    return mutated.clamp_(0, 255).round_().to(torch.uint8)


def _blur(images: Tensor, size: Tensor, taps: Tensor) -> Tensor:
    """Separable filter with whole-number taps, so that every sum is exact and the result the same on any device."""
    taps = taps.to(images.device)[size]  # (n, 7)
    border = [_REACH] * 4
    padded = F.pad(images, border, mode="reflect" if min(images.shape[-2:]) > _REACH else "replicate")
    height, width = images.shape[-2:]
    across, down = torch.zeros_like(padded[..., :width]), torch.zeros_like(images)
    for k in range(2 * _REACH + 1):
        across += padded[..., :, k : k + width] * _rows(taps[:, k])
    for k in range(2 * _REACH + 1):
        down += across[..., k : k + height, :] * _rows(taps[:, k])
    return down / _rows(taps.sum(-1).square())


def _rows(numbers: Tensor) -> Tensor:
    return numbers.view(-1, 1, 1, 1)


def _box(side: int) -> list[float]:
    start = _REACH - side // 2  # an even square reaches one pixel further up and left, as in OpenCV
    return [float(start <= k < start + side) for k in range(2 * _REACH + 1)]


def _windows(images: Tensor, reach: int) -> list[Tensor]:
    """The images moved by up to `reach` pixels each way, borders replicated: the values under every pixel's window."""
    height, width = images.shape[-2:]
    padded = F.pad(images, [reach] * 4, mode="replicate").to(torch.uint8)
    steps = range(2 * reach + 1)
    return [padded[..., down : down + height, right : right + width] for down in steps for right in steps]


def _median(values: list[Tensor]) -> Tensor:
    """Elementwise median of an odd number of tensors, by forgetful selection (A. W. Paeth, Graphics Gems, 1990).

    Neither extreme of more than half of the values is their median: drop both, take in the next value, repeat.
    """
    held, waiting = values[: len(values) // 2 + 2], values[len(values) // 2 + 2 :]
    while len(held) > 1:
        low, high, between = held[0], held[-1], []
        low, high = torch.minimum(low, high), torch.maximum(low, high)
        for value in held[1:-1]:
            low, value = torch.minimum(low, value), torch.maximum(low, value)
            high, value = torch.maximum(high, value), torch.minimum(high, value)
            between.append(value)
        held, waiting = between + waiting[:1], waiting[1:]
    return held[0]


_BOXES = torch.tensor([_box(side) for side in range(1, 6)])
_GAUSSIANS = torch.tensor(  # OpenCV's fixed tables for sigma 0, times 256
    [
        [0, 0, 0, 256, 0, 0, 0],
        [0, 0, 64, 128, 64, 0, 0],
        [0, 16, 64, 96, 64, 16, 0],
        [8, 28, 56, 72, 56, 28, 8],
    ],
    dtype=torch.float32,
)
