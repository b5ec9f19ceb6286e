"""Bias correction: a planted shift of a layer's mean goes away exactly, whatever holds the bias."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dflare.errors import InputError
from repair.compression import Compressed
from repair.integers.bias_correction import CORRECTIONS, correct_biases
from repair.opening import open_trainable
from repair.recipes import Recipe
from repair.trainable import Trainable

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402

from tests.repair.rounded_net import built, net, pixels, save, stored_in  # noqa: E402


def float_original(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convolution, ReLU, pooling and linear layer in floats, with the weights that the integers stand for."""
    held = stored_in(model)
    stored = {
        "w": held["conv.w"] * held["conv.s"][:, None, None, None],
        "b": held["conv.b"] * held["conv.bs"],
        "v": held["fc.w"] * held["fc.s"],
    }
    nodes = [
        helper.make_node("Conv", ["images", "w", "b"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "v"], ["scores"], transB=1),
    ]
    return built(nodes, {name: value.astype(np.float32) for name, value in stored.items()}, 18)


def opened(folder: Path, shift: tuple[int, ...] = (0, 0, 0, 0)) -> tuple[Trainable, Trainable]:
    """The rounded net, its biases moved by a planted shift in steps of their grids, and its original."""
    model = net()
    original = open_trainable(save(float_original(model), folder / "original.onnx"))
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "conv.b")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.int32(shift), "conv.b"))
    return open_trainable(save(model, folder / "int8.onnx")), original


def test_a_planted_shift_of_the_mean_is_taken_away_to_the_last_integer(tmp_path: Path):
    """The image lies on its grid and the weights are the original's, so the sums differ by the planted shift alone."""
    trainable, original = opened(tmp_path, (500, -3000, 0, 1))
    shifts = correct_biases(trainable, original, pixels(50))
    steps = shifts["conv_b"] / torch.tensor(stored_in(net())["conv.bs"])
    assert steps.tolist() == pytest.approx([-500, 3000, 0, -1], abs=0.05)
    with torch.no_grad():
        trainable.write(Compressed(trainable.module, trainable.plan).weights(), tmp_path / "new.onnx")
    trainable.check(tmp_path / "new.onnx")
    assert (tmp_path / "new.onnx").read_bytes() == (save(net(), tmp_path / "right.onnx")).read_bytes()


def test_a_model_whose_sums_are_right_keeps_every_byte(tmp_path: Path):
    trainable, original = opened(tmp_path)
    correct_biases(trainable, original, pixels(50))
    trainable.write(Compressed(trainable.module, trainable.plan).weights(), tmp_path / "new.onnx")
    assert (tmp_path / "new.onnx").read_bytes() == (tmp_path / "int8.onnx").read_bytes()


def test_an_original_with_other_layers_is_refused_in_one_sentence(tmp_path: Path):
    trainable, _ = opened(tmp_path)
    small = built([helper.make_node("Flatten", ["images"], ["f"]), helper.make_node("Gemm", ["f", "v"], ["scores"])],
                  {"v": np.ones((36, 3), np.float32)}, 18)  # fmt: skip
    with pytest.raises(InputError, match="needs an original with the compressed model's layers"):
        correct_biases(trainable, open_trainable(save(small, tmp_path / "other.onnx")), pixels(5))


def test_a_recipe_names_its_correction():
    assert Recipe().correction == "none"
    assert set(CORRECTIONS) == {"none", "bias"}
    with pytest.raises(InputError, match="correction must be one of none, bias, got 'mean'"):
        Recipe(correction="mean")
