"""The pairs that the benchmark measures, found under $DFLARE_BENCH: what they are, their models and their seeds."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dflare.classifiers import Classifier, ModelPair
from dflare.errors import InputError
from dflare.models.interface import Interface
from dflare.models.opening import open_classifier
from dflare.seeds import Seeds, pixel_hash
from direct import open_direct
from experiments.data import load_data
from repair.opening import open_trainable
from sequential import Ask, Said, one_at_a_time, softmax

CENTRED = Interface(range=(0, 255), mean=(125.307, 122.95, 113.865), std=(62.9932, 62.0887, 66.7048))
"""What DiffChaser's ResNet-20 expects of each channel, on the 0-255 scale (yqtianust/DFlare, gen_wrapper_tflite.py)."""

QUANTISED, REDUCED = "int8 and quantised", "distilled and pruned"


@dataclass(frozen=True)
class Kind:
    """A pair by name: which files, which images, and which rows of the table it belongs to."""

    name: str
    network: str
    family: str  # `QUANTISED` or `REDUCED`
    data: str
    original: str  # below $DFLARE_BENCH/models, without ending where `formats` knows several
    compressed: str
    formats: tuple[str, ...] = (".onnx", ".pt2")
    centred: bool = False  # whether images are to be centred as DiffChaser's ResNet-20 wants them
    probabilities: bool = False  # whether the files end with a softmax

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images."""
        return {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}[self.data]


def _third_party(folder: str, network: str, data: str) -> list[Kind]:
    return [
        Kind(f"{folder}-{form}", network, family, data, f"{folder}/original", f"{folder}/{form}")
        for form, family in (("int8", QUANTISED), ("distilled", REDUCED), ("pruned", REDUCED))
    ]


def _diffchaser(name: str, network: str, data: str, centred: bool = False) -> Kind:
    files = (f"diffchaser/{name}", f"diffchaser/{name}_quant")
    return Kind(f"diffchaser-{name}", network, QUANTISED, data, *files, (".tflite",), centred, probabilities=True)


PAIRS = {
    kind.name: kind
    for kind in (
        *_third_party("mnist_lenet-5", "LeNet-5", "mnist"),
        *_third_party("mnist_simplecnn", "SimpleCNN", "mnist"),
        *_third_party("cifar-10_resnet20", "ResNet-20", "cifar10"),
        _diffchaser("lenet1", "LeNet-1", "mnist"),
        _diffchaser("lenet5", "LeNet-5", "mnist"),
        _diffchaser("resnet", "ResNet-20", "cifar10", centred=True),
    )
}


@dataclass(frozen=True)
class Subject:
    """A pair at hand: its models opened twice with one thread each, and the seeds that every strategy gets."""

    kind: Kind
    pair: ModelPair
    confirm: ModelPair
    ask: Ask  # the same two files for `sequential`, one image at a time
    seeds: Seeds
    files: tuple[Path, Path]  # original and compressed
    others: Tensor  # (k, c, h, w) uint8, training images for strategies that use images of other classes


def bench_folder() -> Path:
    """$DFLARE_BENCH, by default the folder `shared` beside the project."""
    return Path(os.environ.get("DFLARE_BENCH") or Path(__file__).resolve().parents[2] / "shared")


def find_kinds(names: str | None) -> list[Kind]:
    """The pairs named, separated by commas, all for None; raises `InputError` for unknown names."""
    if names is None:
        return list(PAIRS.values())
    unknown = [name for name in names.split(",") if name not in PAIRS]
    if unknown:
        raise InputError(f"--pairs must be some of {', '.join(PAIRS)}, got {unknown[0]!r}")
    return [PAIRS[name] for name in names.split(",")]


def open_subject(kind: Kind, seeds: int, ending: str = ".onnx") -> Subject:
    """Open a pair and find its seeds: the first test images, in official order, on which both give one label.

    `ending` is the wanted format of pairs that come in several. Raises `InputError` for missing files.
    """
    pair = open_pair(kind, ending)
    train, test = _images(kind.data)
    return Subject(
        kind=kind,
        pair=pair,
        confirm=open_pair(kind, ending),
        ask=open_alone(kind, ending),
        seeds=agreed_seeds(pair, test, seeds),
        files=_paths(kind, ending),
        others=train,
    )


@cache
def twin(path: Path) -> Classifier:
    """The model in a file as a module with gradients, opened once; raises `InputError` where it cannot be one."""
    return open_trainable(path).module.requires_grad_(False)


def open_pair(kind: Kind, ending: str = ".onnx") -> ModelPair:
    """Both models of a pair, freshly opened with one thread."""
    original, compressed = (_open(kind, path) for path in _paths(kind, ending))
    return ModelPair(original, compressed)


def open_alone(kind: Kind, ending: str = ".onnx") -> Ask:
    """Both models of a pair for one image at a time, straight at their runtimes where that can be."""
    pair = open_pair(kind, ending)
    through, models = one_at_a_time(pair), [open_direct(path) for path in _paths(kind, ending)]
    if None in models:
        return through
    original, compressed = (model for model in models if model is not None)
    mean, deviation = np.array((CENTRED.mean, CENTRED.std) if kind.centred else (0, 255), np.float32)

    def ask(image: np.ndarray) -> Said:
        numbers = (image - mean) / deviation
        first, second = original(numbers), compressed(numbers)
        if kind.probabilities:
            return Said(first, second, np.concatenate([first, second]))
        return Said(first, second, np.concatenate([softmax(first), softmax(second)]))

    noise = np.random.default_rng(0).integers(0, 256, kind.shape, dtype=np.uint8)
    if abs(ask(noise).joint - through(noise).joint).max() > 1e-3:  # rounding at most; a slip in layout or scale is more
        raise InputError(f"expected {kind.name} to answer as through dflare when asked directly, it does not")
    return ask


def agreed_seeds(pair: ModelPair, images: Tensor, count: int) -> Seeds:
    """The first `count` images uint8 (n, c, h, w) on which both models give one label."""
    parts, missing = [], count
    for part in images.split(500):
        original, compressed = pair(part).labels
        parts.append(part[original == compressed][:missing])
        missing -= len(parts[-1])
        if missing <= 0:
            break
    agreed = torch.cat(parts)
    return Seeds(agreed, pixel_hash(agreed))


@cache
def _images(name: str) -> tuple[Tensor, Tensor]:
    """Training and test images of a data set, in official order; the latter are the seeds, the former never are."""
    data = load_data(name, str(bench_folder() / "data"))
    assert data.test_images is not None
    return data.train_images, data.test_images


def _open(kind: Kind, path: Path) -> Classifier:
    if path.suffix == ".pt2":
        _register_quantised_operators()
    return open_classifier(path, CENTRED if kind.centred else Interface(), threads=1)


def _paths(kind: Kind, ending: str) -> tuple[Path, Path]:
    """Files of original and compressed model, in the wanted format where they come in that."""
    used, folder = ending if ending in kind.formats else kind.formats[0], bench_folder() / "models"
    return folder / f"{kind.original}{used}", folder / f"{kind.compressed}{used}"


def _register_quantised_operators() -> None:
    """Make the operators of int8 `.pt2` files known to torch, where the package torchao is there."""
    try:
        import torchao.quantization.pt2e.quantize_pt2e  # noqa: F401
    except ImportError:
        return
