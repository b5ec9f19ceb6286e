"""The numbers that a model file wants to see in place of [0, 1]. Imports no model code, so that settings can use it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from dflare.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from dflare.classifiers import Classifier


@dataclass(frozen=True)
class Preprocessed:
    """A classifier of images in [0, 1] from one that wants (x * scale - mean) / std.

    `mean` and `std` have one number, or one a channel, in the units of x * scale; without them nothing is subtracted
    or divided by. Grey levels (scale 255) come out exactly. Raises `InputError` for what `check_preprocessing`
    refuses and, when asked, for images of another number of channels.
    """

    classifier: "Classifier"
    scale: float = 1.0
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        check_preprocessing(self.scale, self.mean, self.std)

    def __call__(self, images: "Tensor") -> "Tensor":
        values = images * self.scale
        if self.mean is not None:
            values = values - _per_channel(self.mean, "mean", images)
        if self.std is not None:
            values = values / _per_channel(self.std, "std", images)
        return self.classifier(values)


def check_preprocessing(
    scale: float, mean: Sequence[float] | None, std: Sequence[float] | None, prefix: str = ""
) -> None:
    """Raise `InputError` unless scale and std are positive, all numbers finite, and mean and std of one length.

    `prefix` stands before the three names in the message.
    """
    if not 0 < scale < inf:
        raise InputError(f"{prefix}scale must be a positive number, got {scale:g}")
    for name, numbers, low, kind in (("mean", mean, -inf, "finite"), ("std", std, 0.0, "positive")):
        if numbers is not None and not (numbers and all(low < number < inf for number in numbers)):
            raise InputError(f"{prefix}{name} must be {kind} numbers, one or one a channel, got {list(numbers)}")
    if mean is not None and std is not None and len(mean) != len(std):
        raise InputError(f"{prefix}mean and {prefix}std must be of one length, got {len(mean)} and {len(std)}")


def is_identity(scale: float, mean: Sequence[float] | None, std: Sequence[float] | None) -> bool:
    """Whether the images stay what they are."""
    return scale == 1 and not any(mean or ()) and all(number == 1 for number in std or ())


def _per_channel(numbers: Sequence[float], name: str, images: "Tensor") -> "Tensor":
    """The numbers as (1, channels or 1, 1, 1), to be used on images (n, channels, h, w)."""
    channels = images.shape[1]
    if len(numbers) not in (1, channels):
        wanted = "1 number" if channels == 1 else f"1 or {channels} numbers"
        raise InputError(f"the input's {name} must have {wanted} for images of {channels} channels, got {len(numbers)}")
    return images.new_tensor(numbers)[None, :, None, None]
