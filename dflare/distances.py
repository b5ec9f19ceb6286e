"""How far apart two images are, on [0, 1]; batched, and for each pair the same in any batch.

All functions take uint8 images (n, c, h, w) twice and return (n,). Sums run over whole numbers, so they are exact.
"""

import torch
from torch import Tensor

from dflare.classifiers import check_images
from dflare.errors import InputError

_WINDOW, _SIGMA = 11, 1.5  # Wang et al. (2004), section III-B
_LUMINANCE, _CONTRAST = 0.01**2, 0.03**2  # their C1 and C2 for a range of 1
_FINE = 2.0**40  # fixed point in which SSIM values are summed up


def l_inf(images: Tensor, others: Tensor) -> Tensor:
    """Largest change of any value, (n,) float64 in [0, 1]."""
    return grey_levels(images, others).abs().amax(1).double() / 255


def l_2(images: Tensor, others: Tensor) -> Tensor:
    """Euclidean distance, (n,) float64 in [0, sqrt(c * h * w)]."""
    return grey_levels(images, others).square().sum(1).double().sqrt() / 255


def l_0(images: Tensor, others: Tensor) -> Tensor:
    """Number of pixels that differ in any channel, (n,) int64 in [0, h * w]."""
    _check(images, others)
    return (images != others).any(1).flatten(1).sum(1)


def ssim(images: Tensor, others: Tensor) -> Tensor:
    """Structural similarity, (n,) float64 in [-1, 1], 1 for equal images; mean over all windows and channels.

    Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural similarity",
    2004, equation 13: Gaussian window of 11 x 11 and sigma 1.5 inside the image, K1 = 0.01, K2 = 0.03, channels on
    their own. An image with a side below 11 gets a window of that side.
    """
    _check(images, others)
    x, y = images.double() / 255, others.double() / 255
    mean_x, mean_y = _smooth(x), _smooth(y)
    variance = (_smooth(x * x) - mean_x**2) + (_smooth(y * y) - mean_y**2)
    covariance = _smooth(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _LUMINANCE) / (mean_x**2 + mean_y**2 + _LUMINANCE)
    windows = (luminance * (2 * covariance + _CONTRAST) / (variance + _CONTRAST)).flatten(1)
    return (windows * _FINE).round().to(torch.int64).sum(1).double() / (_FINE * windows.shape[1])


def grey_levels(images: Tensor, others: Tensor) -> Tensor:
    """Images minus others in grey levels, (n, c * h * w) int64 in [-255, 255]."""
    _check(images, others)
    return (images.to(torch.int64) - others.to(torch.int64)).flatten(1)


def _check(images: Tensor, others: Tensor) -> None:
    check_images(images)
    check_images(others)
    if images.shape != others.shape:
        shapes = f"{tuple(images.shape)} and {tuple(others.shape)}"
        raise InputError(f"images whose distance is asked must come in equal shapes, got {shapes}")


def _smooth(values: Tensor) -> Tensor:
    """Gaussian mean over every window inside the image; sums of shifted images, so the same in any batch."""
    side = min(_WINDOW, *values.shape[2:])
    for axis in (2, 3):
        across = values.shape[axis] - side + 1
        parts = (tap * values.narrow(axis, k, across) for k, tap in enumerate(_taps(side)))
        values = sum(parts, torch.zeros(()))
    return values


def _taps(side: int) -> list[float]:
    places = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    taps = torch.exp(-(places**2) / (2 * _SIGMA**2))
    return (taps / taps.sum()).tolist()
