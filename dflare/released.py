"""The seven mutations as the authors' released code performs them, for the strategy `dflare-released`.

Three differ from those published: there, noisy images are cast to uint8 before they are clipped, which truncates
towards zero and wraps around at 256, and the changed places are values of single channels instead of pixels. Ranges and
random numbers are those of `dflare.mutations`; so are the other four mutations.
"""

import torch
from torch import Tensor

from dflare.mutations import MUTATIONS, Mutation, gaussian_noise, random_pixels, speckle_noise
from dflare.random import Draws


def gaussian_noise_released(images: Tensor, draws: Draws) -> Tensor:
    """Add normal noise of variance 0.1 (in squared grey levels), then cast: darkens by 0.5 on average."""
    return wrapped(gaussian_noise(images, draws))


def speckle_noise_released(images: Tensor, draws: Draws) -> Tensor:
    """Multiply by 1 + normal noise, its mean in [-0.5, 0.5], its variance in [0, 0.05], then cast: 325 becomes 69."""
    return wrapped(speckle_noise(images, draws))


def random_pixels_released(images: Tensor, draws: Draws) -> Tensor:
    """Give 0 to 9 of an image's values, one channel each, a random value; places are drawn with replacement."""
    return random_pixels(images.flatten(1)[:, None, None], draws).view(images.shape)


def wrapped(images: Tensor) -> Tensor:
    """What casting to uint8 makes of finite values: truncated towards zero, then modulo 256, as float32."""
    return torch.remainder(images.trunc(), 256)


_DIFFERENT = {
    "gaussian_noise": gaussian_noise_released,
    "speckle_noise": speckle_noise_released,
    "random_pixels": random_pixels_released,
}

RELEASED: dict[str, Mutation] = {
    mutation.__name__: mutation for mutation in (_DIFFERENT.get(name, shared) for name, shared in MUTATIONS.items())
}
"""The seven mutations of the released code by name; those that differ from the published ones end in `_released`."""
