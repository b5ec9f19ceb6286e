"""Limits on the distance from the seed, so that triggers stay recognisable."""

from dataclasses import dataclass
from math import floor, isfinite

import torch
from torch import Tensor

from dflare.distances import grey_levels, ssim
from dflare.errors import InputError

_SLACK = 1e-9  # in grey levels: 8 / 255 as a float must still allow 8 of them
_HALVINGS = 10  # of the way to the seed: the kept share of a change is found to 1 / 1024


@dataclass(frozen=True)
class Limits:
    """The greatest distances from the seed, on [0, 1], and the least structural similarity; None sets no limit.

    Raises `InputError` for a distance below one grey level, where no image but the seed is left, and for a
    similarity outside (0, 1).
    """

    l_inf: float | None = None
    l_2: float | None = None
    ssim: float | None = None

    def __post_init__(self) -> None:
        for key, limit in (("search.max_l_inf", self.l_inf), ("search.max_l_2", self.l_2)):
            if limit is not None and not (isfinite(limit) and limit * 255 >= 1 - _SLACK):
                raise InputError(f"{key} must be at least one grey level, 1/255 on [0, 1], or null, got {limit}")
        if self.ssim is not None and not 0 < self.ssim < 1:
            raise InputError(f"search.min_ssim must be between 0 and 1, both excluded, or null, got {self.ssim}")

    def respected(self, origin: Tensor, images: Tensor) -> Tensor:
        """Whether uint8 images (n, c, h, w) lie within all limits around their seeds `origin`, (n,) bool."""
        inside = torch.ones(len(images), dtype=torch.bool, device=images.device)
        if self.l_inf is not None:
            inside &= grey_levels(images, origin).abs().amax(1) <= self._levels(self.l_inf)
        if self.l_2 is not None:
            inside &= self._stretch(self.l_2, origin, images) <= 1
        if self.ssim is not None:
            inside &= ssim(images, origin) >= self.ssim
        return inside

    def hold(self, origin: Tensor, images: Tensor) -> Tensor:
        """The images, each moved towards its seed as far as the limits ask; uint8 (n, c, h, w) in and out.

        Changes are cut at the L-inf limit, then scaled down to the L2 limit, then to the similarity; scaled changes
        are rounded towards the seed, so a limit once respected stays so. Images inside the limits stay as they are.
        """
        if self.l_inf is not None:
            most = self._levels(self.l_inf)
            change = grey_levels(images, origin).clamp(-most, most)
            images = (origin.to(torch.int64) + change.view(origin.shape)).to(torch.uint8)
        if self.l_2 is not None:
            stretch = self._stretch(self.l_2, origin, images)
            images = _blend(origin, images, 1 / stretch.clamp(min=1))
        if self.ssim is not None:
            images = _similar(origin, images, self.ssim)
        return images

    @staticmethod
    def _levels(distance: float) -> int:
        """How many whole grey levels fit into a distance on [0, 1]."""
        return floor(distance * 255 + _SLACK)

    @staticmethod
    def _stretch(limit: float, origin: Tensor, images: Tensor) -> Tensor:
        """L2 distance as a multiple of the limit, (n,) float64."""
        return grey_levels(images, origin).square().sum(1).double().sqrt() / (limit * 255 + _SLACK)


def _blend(origin: Tensor, images: Tensor, share: Tensor) -> Tensor:
    """Images with a share (n,) float64 of their change, rounded towards the seed to whole grey levels."""
    change = (grey_levels(images, origin) * share[:, None]).trunc().to(torch.int64)
    return (origin.to(torch.int64) + change.view(origin.shape)).to(torch.uint8)


def _similar(origin: Tensor, images: Tensor, least: float) -> Tensor:
    """Images with the largest share of their change, by bisection, at which they are similar enough."""
    share = torch.ones(len(images), dtype=torch.float64, device=images.device)
    far = (ssim(images, origin) < least).nonzero().squeeze(1)
    low, high = torch.zeros_like(share[far]), share[far]
    for _ in range(_HALVINGS if len(far) else 0):
        middle = (low + high) / 2
        similar = ssim(_blend(origin[far], images[far], middle), origin[far]) >= least
        low, high = torch.where(similar, middle, low), torch.where(similar, high, middle)
    share[far] = low
    return _blend(origin, images, share)
