"""The gradient search on model files, and what it says of files that it cannot go through."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dflare.classifiers import Classifier, to_unit
from dflare.errors import InputError
from dflare.models.interface import Interface
from dflare.shards import read_endings, read_triggers
from experiments.opening import Source
from experiments.subject import Subject
from experiments.twins import gradients_of


def closed() -> Classifier:
    raise AssertionError("no black box is asked for gradients")


def subject(files: dict[str, Path], **interface: Any) -> Subject:
    sources = {which: Source(str(path), Interface(**interface)) for which, path in files.items()}
    return Subject("toy", closed, closed, sources, {}, ())


def lite(path: Path) -> None:
    """What begins like a LiteRT file, which has no gradients whatever follows."""
    path.write_bytes(bytes(4) + b"TFL3" + bytes(64))


def test_gradients_are_those_of_the_models_in_the_files(toys: Any):
    files = {"original": toys.model("original"), "compressed": toys.model("pruned")}
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1])
    came = gradients_of(subject(files), None)(images, labels)
    pixels = to_unit(images).requires_grad_()
    chances = []
    for path in files.values():
        weight, bias = torch.export.load(path).state_dict.values()
        chances.append((pixels.flatten(1) @ weight.T + bias).softmax(-1).gather(1, labels[:, None]).sum())
    (chances[0] - chances[1]).backward()
    torch.testing.assert_close(came, pixels.grad, rtol=1e-3, atol=1e-5)
    other = gradients_of(subject(files), toys.model("original"))(images, labels)
    assert not other.any()  # the repaired model's file in place of the one handed in: here the original's own
    scaled = gradients_of(subject(files, range=(0, 0.5)), None)(images, labels)
    assert not torch.allclose(scaled, came)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"compressed": "pruned.pt2"}, "the original of toy is opened in memory"),
        ({"original": "original.pt2"}, "the compressed model of toy is opened in memory"),
        (
            {"original": "original.pt2", "compressed": "lite"},
            r"compressed model of toy is not one \(a model to be repaired must be \.pt2, \.onnx or \.pt, got .*lite",
        ),
        ({"original": "lite", "compressed": "pruned.pt2"}, r"original of toy is not one \(a model to be repaired must"),
        ({"original": "original.pt2", "compressed": "none.onnx"}, r"compressed model of toy .*none\.onnx, found none"),
    ],
)
def test_a_pair_that_cannot_be_differentiated_is_refused_with_what_to_use_instead(
    files: dict[str, str], words: str, toys: Any
):
    lite(toys.folder / "lite")
    with pytest.raises(InputError, match=words + ".*search.strategy=boundary") as error:
        gradients_of(subject({name: toys.folder / file for name, file in files.items()}), None)
    assert re.match(r"search\.strategy=gradient needs two models that can be differentiated", str(error.value))


def test_a_search_follows_gradients_inside_its_limit(dflare: Callable[..., Any], toys: Any, tmp_path: Path):
    settings = toys.settings(tmp_path / "run", search__strategy="gradient", search__max_l_inf=0.05)
    answer = dflare("search", *settings)
    assert answer.code == 0, answer.err
    folder = tmp_path / "run" / "round-00" / "triggers"
    found = read_triggers(folder)
    assert found is not None
    assert len(found) >= 4
    assert (found.images.int() - found.seed_images.int()).abs().max() <= 12  # 0.05 * 255
    assert read_endings(folder).queries.max() <= 41
