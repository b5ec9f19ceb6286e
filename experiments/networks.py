"""Networks to compress: the literature's small image classifiers, each with a student of at most an eighth of it.

All take images in [0, 1], float32 (n, c, h, w), normalise them themselves and return raw scores (n, 10).
A student is the same family with fewer channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Images in [0, 1] to zero mean and unit variance over a data set, channel by channel."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


# Mean and standard deviation of each training split in [0, 1].
normalize_digits = partial(Normalize, (0.305,), (0.318,))
normalize_mnist = partial(Normalize, (0.1307,), (0.3081,))
normalize_fashion = partial(Normalize, (0.2860,), (0.3530,))
normalize_cifar = partial(Normalize, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def digits_cnn(width: int = 16, hidden: int = 32) -> nn.Module:
    """Two 3 x 3 convolutions and two fully connected layers for 16 x 16 grey images; 21,546 parameters."""
    return nn.Sequential(
        normalize_digits(),
        *(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(2 * width * 4 * 4, hidden), nn.ReLU(), nn.Linear(hidden, 10)),
    )


def lenet1(widths: tuple[int, int] = (4, 12)) -> nn.Module:
    """LeNet-1 (LeCun et al., 1989) as in DeepXplore and DFLARE: padded, ReLU and maximum pooling; 7,206 parameters."""
    first, second = widths
    return nn.Sequential(
        normalize_mnist(),
        *(nn.Conv2d(1, first, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(first, second, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(second * 7 * 7, 10)),
    )


def lenet5(widths: tuple[int, int, int, int] = (6, 16, 120, 84)) -> nn.Module:
    """LeNet-5 (LeCun et al., 1998) with ReLU and maximum pooling; 61,706 parameters."""
    first, second, third, fourth = widths
    return nn.Sequential(
        normalize_mnist(),
        *(nn.Conv2d(1, first, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(first, second, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(second * 5 * 5, third), nn.ReLU()),
        *(nn.Linear(third, fourth), nn.ReLU(), nn.Linear(fourth, 10)),
    )


class Block(nn.Module):
    """Two 3 x 3 convolutions, with a shortcut around them or without.

    Where the shape changes the shortcut is a 1 x 1 convolution (option B of He et al., 2016).
    """

    def __init__(self, inside: int, outside: int, stride: int, shortcut: bool) -> None:
        super().__init__()
        self.first, self.second = _conv(inside, outside, 3, stride), _conv(outside, outside, 3, 1)
        same = inside == outside and stride == 1
        self.around = (nn.Identity() if same else _conv(inside, outside, 1, stride)) if shortcut else None

    def forward(self, features: Tensor) -> Tensor:
        out = self.second(self.first(features).relu())
        return (out if self.around is None else out + self.around(features)).relu()


class GlobalAverage(nn.Module):
    """Features (n, c, h, w) to their means (n, c)."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean((2, 3))


def resnet(
    normalize: Callable[[], Normalize], channels: int, blocks: int, width: int, shortcut: bool = True
) -> nn.Module:
    """He et al.'s CIFAR networks: three stages of `blocks` blocks with width, 2 width and 4 width channels."""
    widths = [width, width, 2 * width, 4 * width]
    stages = [
        Block(inside if block == 0 else outside, outside, 2 if block == 0 and stage > 0 else 1, shortcut)
        for stage, (inside, outside) in enumerate(pairwise(widths))
        for block in range(blocks)
    ]
    head = (GlobalAverage(), nn.Linear(4 * width, 10))
    return nn.Sequential(normalize(), _conv(channels, width, 3, 1), nn.ReLU(), *stages, *head)


def vgg16(width: int = 64) -> nn.Module:
    """VGG-16 (Simonyan and Zisserman, 2015) for 32 x 32 pixels: batch norm, one fully connected layer; 14.7 million."""
    layers: list[nn.Module] = [normalize_cifar()]
    inside = 3
    for outside, repeats in ((width, 2), (2 * width, 2), (4 * width, 3), (8 * width, 3), (8 * width, 3)):
        for _ in range(repeats):
            layers += [*_conv(inside, outside, 3, 1), nn.ReLU()]
            inside = outside
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * width, 10))


def _conv(inside: int, outside: int, size: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inside, outside, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")  # He et al. (2015)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside))


@dataclass(frozen=True)
class Architecture:
    """What to build; building draws the first weights from torch's global generator, so fork and seed it around."""

    shape: tuple[int, int, int]  # channels, height, width of an image
    original: Callable[[], nn.Module]
    student: Callable[[], nn.Module]  # at most an eighth of the original's parameters


_resnet8 = partial(resnet, normalize_fashion, channels=1, blocks=1)  # the network of MLPerf Tiny, for grey images
_resnet20 = partial(resnet, normalize_cifar, channels=3, blocks=3)
_plainnet20 = partial(_resnet20, shortcut=False)

ARCHITECTURES: dict[str, Architecture] = {
    "digits_cnn": Architecture((1, 16, 16), digits_cnn, partial(digits_cnn, width=4, hidden=16)),
    "lenet1": Architecture((1, 28, 28), lenet1, partial(lenet1, widths=(4, 1))),
    "lenet5": Architecture((1, 28, 28), lenet5, partial(lenet5, widths=(2, 5, 40, 28))),
    "resnet8": Architecture((1, 28, 28), partial(_resnet8, width=16), partial(_resnet8, width=5)),
    "resnet20": Architecture((3, 32, 32), partial(_resnet20, width=16), partial(_resnet20, width=5)),
    "plainnet20": Architecture((3, 32, 32), partial(_plainnet20, width=16), partial(_plainnet20, width=5)),
    "vgg16": Architecture((3, 32, 32), vgg16, partial(vgg16, width=16)),
}
