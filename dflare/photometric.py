"""Mutations that change an image's values: brightness, contrast and JPEG compression.

Ranges are those of CIFAR-10-C (Hendrycks and Dietterich, ICLR 2019) up to severity 2 for brightness and JPEG and 1 for
contrast, and as far in the opposite direction; its brightness moves the value in HSV, ours every channel.
"""

from io import BytesIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dflare.mutations import Mutation
from dflare.random import Draws, Purpose

_BRIGHTER = 25  # grey levels, a tenth of the scale
_CONTRAST = 64  # 256ths, a quarter
_QUALITIES = (65, 70, 75, 80, 85, 90, 95)
_BLOCK = 8  # pixels a side, what JPEG transforms together
_NO_SUBSAMPLING = 0  # Pillow's name for 4:4:4
_TALLEST = 8192  # rows of a strip; libjpeg stops at 65,500, Pillow warns of more than 89 million pixels


def brightness(images: Tensor, draws: Draws) -> Tensor:
    """Add the same whole number of grey levels, -25 to 25, to every value."""
    return images + _rows(draws.purpose(Purpose.STRENGTH).integers(2 * _BRIGHTER + 1) - _BRIGHTER)


def contrast(images: Tensor, draws: Draws) -> Tensor:
    """Multiply every value's distance to its channel's mean by a factor of 0.75 to 1.25, in 256ths."""
    return stretched(images, draws.purpose(Purpose.STRENGTH).integers(2 * _CONTRAST + 1) + 256 - _CONTRAST)


def jpeg(images: Tensor, draws: Draws) -> Tensor:
    """Compress as JPEG and decompress, by Pillow's libjpeg, with a quality of 65, 70, … 95.

    Colour keeps its resolution (4:4:4); CIFAR-10-C halves it.
    """
    choice = draws.purpose(Purpose.STRENGTH).integers(len(_QUALITIES))
    images, result = images.contiguous(), torch.empty_like(images, memory_format=torch.contiguous_format)
    for index, quality in enumerate(_QUALITIES):
        rows = (choice == index).nonzero().squeeze(-1)
        if len(rows):
            result[rows] = compressed(images[rows], quality)
    return result


PHOTOMETRIC: dict[str, Mutation] = {mutation.__name__: mutation for mutation in (brightness, contrast, jpeg)}


def stretched(images: Tensor, factor: Tensor) -> Tensor:
    """Images with distances to the channels' means times `factor` (n,) int64 in 1/256, in [0, 320].

    The means are rounded to 1/64 grey level, so that every term is a whole number below 2^24, exact in float32.
    """
    size = images.shape[2] * images.shape[3]
    total = images.sum((2, 3), keepdim=True, dtype=torch.int64)
    mean = torch.div(128 * total + size, 2 * size, rounding_mode="floor").float()
    return ((images * 64 - mean) * _rows(factor) + mean * 256) / (64 * 256)


def compressed(images: Tensor, quality: int) -> Tensor:
    """Images (n, c, h, w) after JPEG compression with one quality in [1, 100], float32 on the images' device.

    Three channels are colour; any other number is compressed channel by channel. All go through as one tall image:
    without subsampling the blocks of a JPEG do not know each other, and the padding is libjpeg's own, so the result
    is that of each alone.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, [0, -width % _BLOCK, 0, -height % _BLOCK], mode="replicate").to(torch.uint8).cpu()
    if images.shape[1] != 3:
        return _through_jpeg(padded.flatten(0, 1), quality).view(padded.shape)[..., :height, :width].to(images)
    return _through_jpeg(padded.permute(0, 2, 3, 1), quality).permute(0, 3, 1, 2)[..., :height, :width].to(images)


def _through_jpeg(images: Tensor, quality: int) -> Tensor:
    """Images (n, h, w) or (n, h, w, 3) uint8 after compression, one upon another."""
    strips = []
    for tall in images.flatten(0, 1).split(max(1, _TALLEST // images.shape[1]) * images.shape[1]):
        file = BytesIO()
        Image.fromarray(tall.contiguous().numpy()).save(file, "JPEG", quality=quality, subsampling=_NO_SUBSAMPLING)
        strips.append(torch.from_numpy(np.array(Image.open(file))))
    return torch.cat(strips).view(images.shape)


def _rows(numbers: Tensor) -> Tensor:
    return numbers.view(-1, 1, 1, 1).float()
