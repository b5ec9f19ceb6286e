"""Small networks with one thing wrong that is known, and images on which it shows or does not."""

from pathlib import Path

import torch
from torch import Tensor, nn

from repair.data import Examples
from repair.opening import open_trainable
from repair.trainable import Trainable

CLASSES, PIXELS = 3, 6


class Linear(nn.Module):
    """Scores (n, classes) of images (n, 1, 1, pixels): two pixels tell each class."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(PIXELS, CLASSES)
        self.fc.weight = nn.Parameter(torch.eye(CLASSES).repeat_interleave(PIXELS // CLASSES, 1))
        self.fc.bias = nn.Parameter(torch.zeros(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(images.flatten(1))


class Hidden(nn.Module):
    """The same behind a convolution with a channel a pixel: h_i = pixel i, scores = sums of pairs of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, PIXELS, (1, PIXELS))
        self.conv.weight = nn.Parameter(torch.eye(PIXELS).view(PIXELS, 1, 1, PIXELS))
        self.conv.bias = nn.Parameter(torch.zeros(PIXELS))
        self.fc = nn.Linear(PIXELS, CLASSES)
        self.fc.weight = nn.Parameter(torch.eye(CLASSES).repeat_interleave(PIXELS // CLASSES, 1))
        self.fc.bias = nn.Parameter(torch.zeros(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.conv(images).relu().flatten(1))


def opened(network: nn.Module, path: Path) -> Trainable:
    """The network in a .pt2 file, opened for repair."""
    batch = torch.export.Dim("batch", min=1, max=2048)
    example = torch.rand(4, 1, 1, PIXELS)
    torch.export.save(torch.export.export(network.eval(), (example,), dynamic_shapes=({0: batch},)), path)
    return open_trainable(path)


def shown(network: nn.Module, n: int, seed: int) -> Examples:
    """Random images with what a network, the original, says of them."""
    images = torch.randint(0, 256, (n, 1, 1, PIXELS), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    with torch.no_grad():
        return Examples(images, (8 * network(images / 255)).softmax(-1))


def parted(trainable: Trainable, examples: Examples) -> tuple[Examples, Examples]:
    """The examples on which the pair deviates, and the others."""
    from repair.search_based.sample import agrees

    right = agrees(trainable, examples)
    wrong, good = (Examples(examples.images[rows], examples.targets[rows]) for rows in (~right, right))
    return wrong, good
