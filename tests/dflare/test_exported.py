"""Exported programs as black boxes: any number of images is answered, whatever batch the file was made for."""

import copy
import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from dflare.classifiers import ModelPair
from dflare.errors import InputError
from dflare.models.exported import ExportedClassifier, batch_range, input_shape, load_program
from dflare.models.interface import Takes
from dflare.models.opening import open_classifier


class ChannelMeans(nn.Module):
    """Answers with the mean of each channel."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


class TwoInputs(nn.Module):
    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        return (images + others).mean((2, 3))


BATCHES = {
    "fixed 1": (1, None, (1, 1)),
    "fixed 4": (4, None, (4, 4)),
    "2 to 8": (3, Dim("batch", min=2, max=8), (2, 8)),
    "any": (2, Dim("batch"), None),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder, files = tmp_path_factory.mktemp("exported"), {}
    for name, (batch, dim, _) in BATCHES.items():
        shapes = {"images": {0: dim}} if dim is not None else None
        program = torch.export.export(ChannelMeans(), (torch.zeros(batch, 3, 2, 2),), dynamic_shapes=shapes)
        files[name] = folder / f"{name}.pt2"
        torch.export.save(program, files[name])
    return files


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("n", [1, 2, 5, 7, 8, 9, 17])
def test_any_number_of_images_is_answered_whatever_batch_the_file_fixes(files, name, n):
    images = torch.arange(n * 12, dtype=torch.float32).view(n, 3, 2, 2) / (n * 12)
    scores = ExportedClassifier(files[name])(images)  # 9 and 17 leave a rest of one for "2 to 8"
    torch.testing.assert_close(scores, images.mean((2, 3)))


@pytest.mark.parametrize("name", BATCHES)
def test_the_range_of_batches_is_read_from_the_file(files, name):
    smallest, largest = batch_range(load_program(files[name]), files[name])
    expected = BATCHES[name][2]
    if expected is None:
        assert smallest <= 2
        assert largest > 10**6
    else:
        assert (smallest, largest) == expected


def test_sizes_that_are_free_are_named(files):
    assert input_shape(load_program(files["fixed 4"]), files["fixed 4"]) == [4, 3, 2, 2]
    shape = input_shape(load_program(files["2 to 8"]), files["2 to 8"])
    assert isinstance(shape[0], str)
    assert shape[1:] == [3, 2, 2]


@pytest.mark.parametrize("came", [(1, 2, 2, 2), (1, 3, 4, 4)])
def test_images_of_another_size_are_refused_by_numbers(files, came):
    words = "3 channels, got 2" if came[1] == 2 else r"2 x 2 pixels \(height x width\), got 4 x 4"
    with pytest.raises(InputError, match=rf"fixed 4\.pt2 takes images of {words}"):
        open_classifier(files["fixed 4"])(torch.zeros(came))


class Ending(nn.Module):
    """Channel means, read by another layout or type, and an operator at the end."""

    def __init__(self, end: nn.Module, last: bool = False) -> None:
        super().__init__()
        self.end, self.axes = end, (1, 2) if last else (2, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.end(images.float().mean(self.axes))


@pytest.mark.parametrize(
    ("end", "scores"),
    [
        (nn.Softmax(-1), "probabilities"),
        (nn.Sequential(nn.Softmax(-1), nn.Unflatten(1, (3, 1)), nn.Flatten(), nn.Dropout(0.0)), "probabilities"),
        (nn.LogSoftmax(-1), "logits"),
        (nn.Sigmoid(), None),
        (nn.Sequential(nn.Softmax(-1), nn.ReLU()), None),
        (nn.Identity(), None),
    ],
)
def test_probabilities_are_told_from_the_last_operator(tmp_path, end, scores):
    program = torch.export.export(Ending(end).eval(), (torch.ones(2, 3, 4, 5),))
    torch.export.save(program, tmp_path / "m.pt2")
    model = ExportedClassifier(tmp_path / "m.pt2")
    assert model.takes == Takes(3, 4, 5, "nchw", None, scores, (2, 2))
    images = torch.rand(3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(model(images), end(images.mean((2, 3))))


def test_channels_may_come_last_and_integers_are_the_numbers_themselves(tmp_path):
    example = torch.zeros((2, 4, 5, 3), dtype=torch.uint8)
    shapes = {"images": {0: Dim("n", min=1, max=64)}}
    program = torch.export.export(Ending(nn.Identity(), last=True), (example,), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "m.pt2")
    classifier = open_classifier(tmp_path / "m.pt2")
    assert classifier.takes == Takes(3, 4, 5, "nhwc", (0.0, 255.0), None, (1, 64))
    levels = torch.randint(0, 256, (3, 3, 4, 5), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(classifier(levels / 255), levels.float().mean((2, 3)))


def test_a_model_in_use_can_be_pickled_and_copied(files):
    model = ExportedClassifier(files["2 to 8"])
    images = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    scores = model(images)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other._module is None
        assert torch.equal(other(images), scores)


def test_a_pair_of_exported_models_agrees_with_itself(files):
    pair = ModelPair(open_classifier(files["any"]), open_classifier(files["2 to 8"]))
    images = torch.arange(9 * 12).view(9, 3, 2, 2).to(torch.uint8)
    outputs = pair(images)
    assert not outputs.deviates.any()
    assert outputs.labels[0].tolist() == [2] * 9


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"not a zip")
    with pytest.raises(InputError, match=r"the zip archive .*model\.pt2 is cut off or broken"):
        load_program(tmp_path / "model.pt2")


def test_an_archive_without_a_program_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        archive.writestr("model/data.pkl", b"")
    with pytest.raises(InputError, match=r"\(\.pt2\) in .*model\.pt2, but the archive holds none"):
        load_program(tmp_path / "model.pt2")


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch warns before it gives up on a damaged archive
def test_a_damaged_program_is_refused_in_one_sentence(tmp_path, files):
    with zipfile.ZipFile(files["any"]) as whole, zipfile.ZipFile(tmp_path / "model.pt2", "w") as damaged:
        for name in whole.namelist():
            damaged.writestr(name, b"{}" if name.endswith(".json") else whole.read(name))
    with pytest.raises(InputError, match=r"model\.pt2 is not opened: its list of weights is none") as caught:
        load_program(tmp_path / "model.pt2")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"expected a model file at .*gone\.pt2, found none"):
        load_program(tmp_path / "gone.pt2")


@pytest.mark.parametrize(
    ("model", "inputs", "words"),
    [
        (TwoInputs(), (torch.zeros(1, 3, 2, 2),) * 2, "must take one input, the images; it takes 2"),
        (nn.Flatten(), (torch.zeros(1, 12),), r"must take images \(n, channels, .*, it takes \(1, 12\)"),
    ],
)
def test_models_that_take_no_images_are_refused(tmp_path, model, inputs, words):
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(model, inputs), buffer)
    (tmp_path / "model.pt2").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match=words):
        ExportedClassifier(tmp_path / "model.pt2")


@pytest.mark.slow
def test_an_int8_program_opens_in_a_fresh_process():
    path = Path(os.environ.get("DFLARE_BENCH", Path(__file__).parents[3] / "shared")) / "models/mnist_lenet-5/int8.pt2"
    if not path.is_file():
        pytest.skip(f"needs the third-party model {path}")
    code = (
        "import sys, torch; from pathlib import Path; from dflare.models.opening import open_classifier;"
        "print(tuple(open_classifier(Path(sys.argv[1]))(torch.rand(3, 1, 28, 28)).shape))"
    )
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, path], capture_output=True, text=True, check=False
    )
    assert answer.stdout.strip() == "(3, 10)", answer.stderr
