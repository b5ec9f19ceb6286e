"""A float `.pt2` file is repaired in place: other weights, same graph, zeros still zero."""

from pathlib import Path

import pytest
import torch
from torch import nn

from dflare.errors import InputError
from dflare.models.opening import open_classifier
from repair.opening import open_trainable
from repair.proof.payload import payload_bytes
from repair.pt2_models.artifact import check_program, open_exported


class Small(nn.Module):
    """A convolution with a normalisation whose statistics are buffers, half of its weights pruned."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, width, 3, bias=False)
        self.normalisation = nn.BatchNorm2d(width)
        self.head = nn.Linear(width * 36, 3)
        with torch.no_grad():
            self.convolution.weight[::2] = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.normalisation(self.convolution(images)).relu().flatten(1))


def export(path: Path, model: nn.Module) -> Path:
    batch = torch.export.Dim("batch", min=1, max=65536)
    program = torch.export.export(model.eval(), (torch.rand(2, 1, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return export(tmp_path / "small.pt2", Small())


def test_writing_the_weights_as_they_are_changes_nothing(file: Path, tmp_path: Path):
    trainable = open_exported(file)
    trainable.write(dict(trainable.module.named_parameters()), tmp_path / "same.pt2")
    trainable.check(tmp_path / "same.pt2")
    images = torch.rand(5, 1, 8, 8)
    assert torch.equal(open_classifier(file)(images), open_classifier(tmp_path / "same.pt2")(images))
    assert payload_bytes(file) == payload_bytes(tmp_path / "same.pt2")


def test_the_payload_is_the_bytes_of_weights_and_statistics(file: Path):
    numbers = 4 * 9 + 4 * 4 + (4 * 36 * 3 + 3)
    assert payload_bytes(file) == 4 * numbers + 8  # the normalisation's counter of batches is an int64


def test_the_trainable_module_answers_as_the_black_box_does(file: Path):
    images = torch.rand(7, 1, 8, 8)
    assert torch.equal(open_exported(file).module(images), open_classifier(file)(images))


def test_train_and_eval_leave_the_graph_alone(file: Path):
    module = open_exported(file).module
    images = torch.rand(7, 1, 8, 8)
    answers = module.eval()(images)
    assert torch.equal(module.train()(images), answers)


def test_zeros_are_in_the_plan_and_a_file_that_lost_them_is_refused(file: Path, tmp_path: Path):
    trainable = open_exported(file)
    (name,) = trainable.plan
    weights = {name: weight.detach().clone() for name, weight in trainable.module.named_parameters()}
    weights[name][0, 0, 0, 0] = 0.1
    trainable.write(weights, tmp_path / "dense.pt2")
    with pytest.raises(InputError, match="no longer compressed"):
        trainable.check(tmp_path / "dense.pt2")


def test_another_graph_and_weights_that_are_no_numbers_are_refused(file: Path, tmp_path: Path):
    other = export(tmp_path / "other.pt2", Small(width=5))
    with pytest.raises(InputError, match="is no longer the model that came in"):
        check_program(file, other)
    trainable = open_exported(file)
    weights = {name: weight.detach() * float("nan") for name, weight in trainable.module.named_parameters()}
    trainable.write(weights, tmp_path / "nan.pt2")
    with pytest.raises(InputError, match="not finite"):
        trainable.check(tmp_path / "nan.pt2")


def test_only_formats_that_open_are_opened(tmp_path: Path):
    (tmp_path / "model.tflite").write_bytes(bytes(4) + b"TFL3" + bytes(64))
    with pytest.raises(InputError, match=r"to be repaired must be \.pt2, \.onnx or \.pt, got .*model\.tflite"):
        open_trainable(tmp_path / "model.tflite")
    with pytest.raises(InputError, match="found none"):
        open_trainable(tmp_path / "model.pt2")
