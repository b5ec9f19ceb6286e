"""Published models, shown images wrongly on purpose: each slip is named with the setting that repairs it."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dflare.models.interface import Interface
from dflare.models.opening import open_classifier
from dflare.models.shown import Shown
from dflare.parity.preflight import preflight

BENCH = Path(os.environ.get("DFLARE_BENCH", Path(__file__).parents[2].parent / "shared"))
CIFAR, MNIST = BENCH / "data" / "cifar10", BENCH / "data" / "MNIST" / "raw"
COUNT = 200

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CIFAR.exists() and (BENCH / "models").exists()), reason=f"no models and data in {BENCH}"),
]

Sample = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def cifar() -> Sample:
    """The first 200 training images and labels of CIFAR-10."""
    with Image.open(CIFAR / "cifar10_train_00.webp") as mosaic:
        tiles = np.asarray(mosaic.convert("RGB")).reshape(50, 32, 100, 32, 3).transpose(0, 2, 4, 1, 3)
    labels = np.load(CIFAR / "cifar10_labels.npz")["train_y"][:COUNT].astype(np.int64)
    return torch.from_numpy(tiles.reshape(-1, 3, 32, 32)[:COUNT].copy()), torch.from_numpy(labels)


@pytest.fixture(scope="module")
def mnist() -> Sample:
    """The first 200 training images and labels of MNIST."""
    import gzip

    images = gzip.decompress((MNIST / "train-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((MNIST / "train-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, COUNT * 784, 16).reshape(COUNT, 1, 28, 28)
    return torch.from_numpy(pixels.copy()), torch.from_numpy(np.frombuffer(labels, np.uint8, COUNT, 8).astype(np.int64))


def opened(name: str, interface: Interface) -> Shown:
    path = BENCH / "models" / name
    if path.suffix == ".tflite":
        pytest.importorskip("ai_edge_litert")
    if path.suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    return open_classifier(path, interface, threads=1)


KERAS = Interface(range=(0, 255), mean=(125.307, 122.95, 113.865), std=(62.9932, 62.0887, 66.7048))


@pytest.mark.parametrize("labelled", [True, False], ids=["labelled", "unlabelled"])
def test_a_float_model_without_its_range_beside_an_int8_one_that_knows_it(cifar: Sample, labelled: bool) -> None:
    pair = (
        opened("mlperf_tiny/pretrainedResnet.tflite", Interface()),
        opened("mlperf_tiny/pretrainedResnet_quant.tflite", Interface()),
    )
    checked = preflight(*pair, cifar[0], cifar[1] if labelled else None, 0.7)
    assert checked.fatal is not None
    assert checked.fatal.settings == "models.original.range=[0,255]"


@pytest.mark.parametrize("labelled", [True, False], ids=["labelled", "unlabelled"])
def test_a_model_without_its_normalisation_gets_one_that_repairs_it(cifar: Sample, labelled: bool) -> None:
    """ImageNet's and CIFAR-10's numbers are so near that 200 images do not tell them apart: both are named."""
    pair = (
        opened("diffchaser/resnet.tflite", Interface()),
        opened("diffchaser/resnet_quant.tflite", KERAS),
    )
    checked = preflight(*pair, cifar[0], cifar[1] if labelled else None, 0.7)
    assert checked.fatal is not None
    assert "models.original.mean=[0.4914,0.4822,0.4465] models.original.std=[0.2" in str(checked.fatal)
    assert re.search(r"they agree on (99\.\d|100\.0) %", str(checked.fatal))


@pytest.mark.parametrize("labelled", [True, False], ids=["labelled", "unlabelled"])
def test_a_range_that_hardly_changes_the_answers_is_seen_by_the_size_of_the_scores(
    mnist: Sample, labelled: bool
) -> None:
    """LeNet-5 gives 99.5 % of its answers whether white is 1 or 255."""
    pair = (
        opened("mnist_lenet-5/original.onnx", Interface(range=(0, 255))),
        opened("mnist_lenet-5/int8.onnx", Interface()),
    )
    checked = preflight(*pair, mnist[0], mnist[1] if labelled else None, 0.7)
    assert checked.fatal is None
    assert [warning.settings for warning in checked.warnings] == ["models.original.range=[0,1]"]


PAIRS: dict[str, tuple[str, str, Interface, Interface]] = {
    "LeNet-5 int8": ("mnist_lenet-5/original.onnx", "mnist_lenet-5/int8.onnx", Interface(), Interface()),
    "LeNet-5 pruned": ("mnist_lenet-5/original.onnx", "mnist_lenet-5/pruned.onnx", Interface(), Interface()),
    "LeNet-5 distilled": ("mnist_lenet-5/original.onnx", "mnist_lenet-5/distilled.onnx", Interface(), Interface()),
    "LeNet-1": ("diffchaser/lenet1.tflite", "diffchaser/lenet1_quant.tflite", Interface(), Interface()),
    "ResNet-20": ("diffchaser/resnet.tflite", "diffchaser/resnet_quant.tflite", KERAS, KERAS),
    "ResNet-20 int8": ("cifar-10_resnet20/original.onnx", "cifar-10_resnet20/int8.onnx", Interface(), Interface()),
    "ResNet-20 distilled": (
        "cifar-10_resnet20/original.onnx", "cifar-10_resnet20/distilled.onnx", Interface(), Interface()
    ),
    "ResNet-8": (
        "mlperf_tiny/pretrainedResnet.tflite", "mlperf_tiny/pretrainedResnet_quant.tflite",
        Interface(range=(0, 255)), Interface(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_shown_rightly_get_no_advice(
    name: str, cifar: Sample, mnist: Sample, record_property: Callable[[str, object], None]
) -> None:
    first, second, *interfaces = PAIRS[name]
    images, labels = mnist if "LeNet" in name else cifar
    pair = opened(first, interfaces[0]), opened(second, interfaces[1])
    for known in (labels, None):
        checked = preflight(*pair, images, known, 0.7)
        record_property("agreement", checked.agreement)
        assert checked.findings == ()
