"""Triggers asked again: deviations, ties, agreement and change, each against the answer that is known beforehand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dflare.classifiers import ModelPair, Outputs
from dflare.verification import ask_again, verified

IMAGES = torch.randint(0, 200, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def rows(*scores: tuple[float, ...]) -> Tensor:
    return torch.tensor(scores)


class Scripted:
    """Gives the next of its answers whatever it is asked."""

    def __init__(self, *answers: tuple[float, ...]) -> None:
        self.answers = list(answers)

    def __call__(self, images: Tensor) -> Tensor:
        assert len(images) == 1, "a trigger must be asked alone"
        return rows(self.answers.pop(0))


def always(images: Tensor) -> Tensor:
    """Class 0, by as much as the image is bright."""
    bright = images.mean((1, 2, 3))
    return torch.stack([bright, -bright], dim=-1)


def never(images: Tensor) -> Tensor:
    """The other class."""
    return -always(images)


class Dice:
    """Class 1 always, with scores of its own every time."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, images: Tensor) -> Tensor:
        noise = torch.rand(len(images), 1, generator=self.generator)
        return torch.cat([-noise, noise + 1], dim=-1)


class Remembers:
    """Adds to its answer how bright the image before was; in forward order it says the same in every turn but one."""

    def __init__(self) -> None:
        self.last = torch.zeros(1)

    def __call__(self, images: Tensor) -> Tensor:
        scores = never(images) + self.last
        self.last = images.mean((1, 2, 3))
        return scores


class OwnMemory:
    """A runtime that hands out the same memory for every answer."""

    def __init__(self) -> None:
        self.memory = torch.zeros(1, 2)

    def __call__(self, images: Tensor) -> Tensor:
        return self.memory.copy_(never(images))


@pytest.mark.parametrize(
    ("original", "compressed", "field"),
    [
        ((3, 1, 0), (1, 3, 0), "deviates"),
        ((3, 1, 0), (3, 3, 0), "agrees"),  # the first of the tied is the same
        ((3, 1, 0), (2, 1, 0), "agrees"),
        ((1, 3, 0), (3, 3, 0), "tied"),
        ((3, 3, 0), (0, 3, 3), "tied"),
        ((3, 3, 0), (0, 0, 3), "deviates"),
    ],
)
def test_an_answer_is_a_deviation_a_tie_or_an_agreement(
    original: tuple[float, ...], compressed: tuple[float, ...], field: str
):
    found = verified([Outputs(rows(original), rows(compressed))])
    assert [name for name in ("deviates", "tied", "agrees") if bool(getattr(found, name))] == [field]


def test_a_trigger_must_deviate_every_time():
    original = rows((3, 1), (3, 1), (1, 3), (3, 1))
    first = Outputs(original, rows((1, 3), (1, 3), (3, 1), (1, 3)))
    second = Outputs(original, rows((1, 3), (3, 1), (3, 3), (1, 4)))
    found = verified([first, second, first])
    assert found.deviates.tolist() == [True, False, False, True]
    assert found.agrees.tolist() == [False, True, False, False]
    assert found.tied.tolist() == [False, False, True, False]
    assert found.compressed_changed.tolist() == [False, True, True, True]
    assert found.original_changed.tolist() == [False] * 4
    assert verified([first]).deviates.all()
    assert found.counts() == {
        "asked": 4,
        "deviates": 2,
        "tied": 1,
        "agrees": 1,
        "original_changed": 0,
        "compressed_changed": 3,
    }


def test_the_last_bit_is_a_change_and_so_is_the_sign_of_zero():
    one = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    other = one.clone()
    other[1, 0] = torch.nextafter(other[1, 0], torch.tensor(2.0))
    other[2, 1] = -0.0
    found = verified([Outputs(one, one), Outputs(other, one)])
    assert found.original_changed.tolist() == [False, True, True]
    assert not found.compressed_changed.any()


def test_functions_never_change_and_every_image_is_asked_alone_as_often_as_said():
    pair = ModelPair(always, never)
    found = verified(ask_again(pair, IMAGES, 3))
    assert pair.asked[0] == 3 * len(IMAGES)
    assert found.deviates.all()
    assert not (found.original_changed | found.compressed_changed).any()


def test_answers_stand_at_their_images_whatever_the_order_of_asking():
    forward, backward = ask_again(ModelPair(always, never), IMAGES, 2)
    expected = always(IMAGES.float() / 255)
    for outputs in (forward, backward):
        assert torch.equal(outputs.original, expected)
    answers = [(float(k), -1.0) for k in (1, 2, 3, 3, 2, 1)]
    turns = ask_again(ModelPair(Scripted(*answers), never), IMAGES[:3], 2)
    assert [outputs.original[:, 0].tolist() for outputs in turns] == [[1, 2, 3], [1, 2, 3]]


@pytest.mark.parametrize("random", ["original_changed", "compressed_changed"])
def test_the_random_model_is_found_out_and_not_the_other(random: str):
    pair = ModelPair(Dice(), always) if random == "original_changed" else ModelPair(always, Dice())
    counts = verified(ask_again(pair, IMAGES, 3)).counts()
    assert counts["deviates"] == 6  # the labels are always the same: only the bits tell
    assert [name for name in counts if name.endswith("changed") and counts[name]] == [random]
    assert counts[random] == 6


@pytest.mark.parametrize("make", [Remembers, OwnMemory])
def test_a_model_that_remembers_is_found_out_and_one_that_reuses_its_memory_is_none(make: Callable[[], Remembers]):
    found = verified(ask_again(ModelPair(always, make()), IMAGES, 2))
    assert int(found.compressed_changed.sum()) == (6 if make is Remembers else 0)


def test_asked_once_no_model_changes():
    assert not verified(ask_again(ModelPair(always, Dice()), IMAGES, 1)).compressed_changed.any()
