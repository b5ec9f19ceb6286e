"""Running a real model step by step gives the same numbers, and its layers have the file's names."""

import os
from pathlib import Path

import pytest
import torch

from repair.locating.tracing import Asked
from repair.locating.watched import Watched
from repair.opening import open_trainable

BENCH = Path(os.environ.get("DFLARE_BENCH", Path(__file__).parents[2].parent / "shared"))
LENET = BENCH / "models" / "mnist_lenet-5"
pytestmark = pytest.mark.skipif(not LENET.is_dir(), reason="needs the real models of DFLARE_BENCH")


@pytest.mark.parametrize("file", ["int8.onnx", "distilled.onnx", "distilled.pt2", "pruned.pt2"])
def test_a_traced_model_answers_as_the_module_does(file: str) -> None:
    if file.endswith("onnx"):
        pytest.importorskip("onnx")
    model, images = Watched(open_trainable(LENET / file)), torch.rand(5, 1, 28, 28)
    assert [layer.name for layer in model.weighted] == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    with torch.no_grad():
        assert torch.equal(model.trace.run(images, Asked()), model.trainable.module(images))


def test_activations_left_unrounded_move_by_half_a_step_at_most_and_stay_clamped() -> None:
    pytest.importorskip("onnx")
    model, images = Watched(open_trainable(LENET / "int8.onnx")), torch.rand(5, 1, 28, 28) * 3  # beyond the range
    first = next(layer for layer in model.layers if layer.name == "rounding of images")
    rounded, real = Asked(keep=[first.output]), Asked(keep=[first.output], unrounded=[first.output])
    with torch.no_grad():
        for asked in (rounded, real):
            model.trace.run(images, asked)
    one, two = rounded.kept[first.output], real.kept[first.output]
    assert 0 < float((one - two).abs().max()) <= 0.5
    assert float(two.max()) == 255
