"""torchvision's pretrained ImageNet networks, in float and in int8.

They are asked in this process and are no files. torchvision's int8 networks run on integers and have no gradients,
so they can be searched and judged, not repaired. Images are RGB, best at the size they were trained for:
224 pixels a side, 299 for Inception v3.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from dflare.errors import InputError
from dflare.models.kernels import any_kernel
from experiments.catalogue import check_pair_name, is_imagenet

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training images, as torchvision trained


@dataclass(frozen=True)
class _Model:
    """Names in torchvision; the float weights are those that the int8 ones were made from."""

    builder: str
    quantized_weights: str
    float_options: dict[str, Any] = field(default_factory=dict)
    int8_options: dict[str, Any] = field(default_factory=dict)


_MODELS = {
    "inception_v3": _Model(
        "inception_v3",
        "Inception_V3_QuantizedWeights",
        # Its own scaling of images, as it was trained; the int8 weights come without the auxiliary classifier.
        {"transform_input": True, "aux_logits": True, "init_weights": False},
        {"transform_input": True, "aux_logits": False, "init_weights": False},
    ),
    "resnet50": _Model("resnet50", "ResNet50_QuantizedWeights"),
    "resnext101": _Model("resnext101_32x8d", "ResNeXt101_32X8D_QuantizedWeights"),
}
_EXPECTED_WARNINGS = (  # torch announces the end of the int8 modules that torchvision's weights are made for
    "torch.ao.quantization is deprecated",
    "torch.quantize_per_tensor, torch.quantize_per_channel and other quantized tensor creation",
    "TypedStorage is deprecated",  # what the int8 weights are stored in
)


class ImageNetClassifier:
    """A torchvision network as a classifier: [0, 1] float32 (n, 3, h, w) -> scores (n, 1000)."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval()
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _STD))
        self.integers = any("quantized" in type(part).__module__ for part in network.modules())

    def to(self, device: torch.device) -> str | None:
        """Compute on a device from now on; None, or why it stays (torch computes int8 networks on the CPU only)."""
        if self.integers and device.type != "cpu":
            return "torch has no GPU kernels for torchvision's int8 networks"
        self.network.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return None

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError(f"ImageNet models take images (n, 3, height, width), got {tuple(images.shape)}")
        with any_kernel() if self.integers else nullcontext():
            return self.network((images - self.mean) / self.std)


def open_imagenet_pair(
    name: str, download: bool, *, _pretrained: bool = True
) -> tuple[ImageNetClassifier, ImageNetClassifier]:
    """The float and the int8 network of `imagenet-<network>-int8`, with torchvision's pretrained weights.

    The weights come from torch's hub folder and are fetched into it only if `download`. `_pretrained=False` leaves
    them random, for tests. Raises `InputError` for another name and for weights that are not there.
    """
    check_pair_name(name)
    if not is_imagenet(name):
        raise InputError(f"expected one of the ImageNet pairs, got {name}, which is built from files")
    model = _MODELS[name.split("-")[1]]
    original = getattr(models, model.builder)(weights=None, **model.float_options)
    with _quantizing():
        compressed = getattr(models.quantization, model.builder)(weights=None, quantize=True, **model.int8_options)
        if _pretrained:
            int8_weights = getattr(models.quantization, model.quantized_weights).DEFAULT
            _load(original, int8_weights.meta["unquantized"], download)
            _load(compressed, int8_weights, download)
    return ImageNetClassifier(original), ImageNetClassifier(compressed)


@contextmanager
def _quantizing() -> Iterator[None]:
    """Without the expected warnings, and with torch's int8 engine, which torchvision sets, put back."""
    engine = torch.backends.quantized.engine
    try:
        with warnings.catch_warnings():
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        torch.backends.quantized.engine = engine


def _load(network: nn.Module, weights: Any, download: bool) -> None:
    """Put pretrained weights into the network, without unpickling anything but tensors."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[1]
    if not path.is_file() and not download:
        raise InputError(f"expected the pretrained weights at {path}, found none; set pair.download=true to fetch them")
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"the pretrained weights {weights.url} could not be fetched to {path}: {error}") from error
    network.load_state_dict(state)
