"""The ResNet-20 whose weights akamaster publishes, as a user's own module:function.

Written anew after github.com/akamaster/pytorch_resnet_cifar10 (`resnet.py`), whose names the weights have.
"""

from torch import Tensor, nn
from torch.nn.functional import pad


def resnet20() -> nn.Module:
    """The network with the names of the published weights, still random: 269,722 parameters, 10 classes."""
    return ResNet20()


class ResNet20(nn.Module):
    """He et al.'s ResNet-20 for CIFAR-10: normalised images (n, 3, h, w) to scores (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = _stage(16, 16), _stage(16, 32), _stage(32, 64)
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = self.bn1(self.conv1(images)).relu()
        return self.linear(self.layer3(self.layer2(self.layer1(features))).mean((2, 3)))


class Block(nn.Module):
    """Two convolutions with a shortcut that has no parameters (option A of He et al., 2016).

    Where the shape changes it is every second pixel, with zeros for the new channels, half before and half behind.
    """

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.stride, self.added = (1, 0) if inside == outside else (2, (outside - inside) // 2)
        self.conv1 = nn.Conv2d(inside, outside, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)

    def forward(self, features: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.bn1(self.conv1(features)).relu()))
        around = pad(features[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added, self.added))
        return (out + around).relu()


def _stage(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(Block(inside, outside), Block(outside, outside), Block(outside, outside))
