"""Which pairs the zoo offers and how each is made; a table that imports nothing, so that `--help` can read it."""

import difflib
from dataclasses import dataclass, replace

from dflare.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """How long, how fast and with which variations of its images a network is trained."""

    steps: int  # of Adam
    batch_size: int  # images
    learning_rate: float  # at the first step, then down to zero along a half cosine
    shift: int = 0  # pixels; every image is moved by up to that much each way, black comes in
    flip: bool = False  # left and right swapped in every second image


@dataclass(frozen=True)
class Network:
    """A row of the table: what to train on what, and the recipes of its two trained compressed forms."""

    data: str
    architecture: str  # a key of `experiments.networks.ARCHITECTURES`
    train: Recipe
    distil: Recipe
    prune: Recipe  # the fine-tuning after pruning


_DIGITS = Recipe(800, 64, 3e-3, shift=1)
_MNIST = Recipe(1500, 128, 4e-3)
_FASHION = Recipe(5000, 128, 3e-3, shift=2, flip=True)
_CIFAR10 = Recipe(30_000, 128, 2e-3, shift=4, flip=True)  # 77 passes over 50,000 images


def _network(data: str, architecture: str, train: Recipe) -> Network:
    """A student takes as long as its teacher; fine-tuning a pruned network half as long at a third of the rate."""
    prune = replace(train, steps=train.steps // 2, learning_rate=train.learning_rate / 3)
    return Network(data, architecture, train, train, prune)


NETWORKS: dict[str, Network] = {
    "digits-cnn": _network("digits", "digits_cnn", _DIGITS),
    "mnist-lenet1": _network("mnist", "lenet1", _MNIST),
    "mnist-lenet5": _network("mnist", "lenet5", _MNIST),
    "fashion_mnist-resnet8": _network("fashion_mnist", "resnet8", _FASHION),
    "cifar10-resnet20": _network("cifar10", "resnet20", _CIFAR10),
    "cifar10-plainnet20": _network("cifar10", "plainnet20", _CIFAR10),
    "cifar10-vgg16": _network("cifar10", "vgg16", replace(_CIFAR10, learning_rate=1e-3)),
}
"""<data>-<network> -> how it is made."""

ENDINGS = {"distilled": ".pt2", "pruned": ".pt2", "int8": ".onnx"}
"""Compressed form -> ending of its file; the originals are `.pt2`."""

FORMS = tuple(ENDINGS)

IMAGENET_NETWORKS = ("inception_v3", "resnet50", "resnext101")
"""Pretrained pairs, opened by `experiments.imagenet`; they are no files and come in int8 only."""


def pair_names() -> tuple[str, ...]:
    """All names that `pair.name` takes."""
    made = tuple(f"{network}-{form}" for network in NETWORKS for form in FORMS)
    return made + tuple(f"imagenet-{network}-int8" for network in IMAGENET_NETWORKS)


def is_imagenet(name: str) -> bool:
    """Whether the pair is one of the pretrained ImageNet ones, which are opened and not built."""
    return name in pair_names() and name.startswith("imagenet-")


def formats_of(name: str) -> list[str]:
    """Formats of the original's and the compressed model's file; none for a pair that is no files."""
    if is_imagenet(name):
        return []
    form = name.rsplit("-", 1)[1]
    return ["exported", {".pt2": "exported", ".onnx": "onnx"}[ENDINGS[form]]]


def data_of(name: str) -> str:
    """The data set that a pair was made for; raises `InputError` for an unknown pair."""
    check_pair_name(name)
    return "imagefolder" if is_imagenet(name) else name.split("-")[0]


def check_pair_name(name: str) -> None:
    """Raise `InputError` with the nearest right names unless the zoo has that pair."""
    if name not in pair_names():
        near = difflib.get_close_matches(name, pair_names(), n=3, cutoff=0.3) or pair_names()
        raise InputError(f"pair.name must be a pair of the zoo such as {', '.join(near)}, got {name!r}")
