import copy

import pytest
import torch

from dflare.errors import InputError
from dflare.preprocess import Preprocessed, is_identity


def shown(images: torch.Tensor, **numbers: object) -> torch.Tensor:
    """What a classifier behind the preprocessing is shown."""
    return Preprocessed(lambda values: values, **numbers)(images)  # type: ignore[arg-type]


def test_channels_are_scaled_shifted_and_divided_each_by_its_own_number():
    images = torch.tensor([[0.0, 0.5], [1.0, 0.25]])[None, :, :, None]  # two channels of two pixels
    values = shown(images, scale=4.0, mean=(1.0, 2.0), std=(1.0, 0.5))
    assert values[0, :, :, 0].tolist() == [[-1, 1], [4, -2]]


def test_one_number_holds_for_every_channel():
    values = shown(torch.ones(2, 3, 1, 1), scale=255.0, mean=(127.5,), std=(127.5,))
    assert values.flatten().tolist() == [1] * 6


def test_grey_levels_come_out_exactly():
    levels = torch.arange(256)
    assert torch.equal(shown((levels / 255)[None, None, None], scale=255.0).flatten(), levels.float())


def test_without_numbers_nothing_changes():
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(shown(images), images)
    assert torch.equal(shown(images, mean=[0.0], std=[1.0, 1.0, 1.0][:1]), images)


def test_images_handed_in_stay_as_they_are():
    images = torch.ones(1, 1, 2, 2)
    shown(images, scale=3.0, mean=(1.0,), std=(2.0,))
    assert torch.equal(images, torch.ones(1, 1, 2, 2))


def test_a_copy_shows_the_same():
    preprocessed = Preprocessed(torch.nn.Flatten(), 2.0, (1.0,))
    assert torch.equal(copy.deepcopy(preprocessed)(torch.ones(1, 1, 1, 2)), torch.ones(1, 2))


@pytest.mark.parametrize(
    ("numbers", "identity"),
    [
        ((1.0, None, None), True),
        ((1.0, [0.0, 0.0], [1.0]), True),
        ((2.0, None, None), False),
        ((1.0, [0.0, 0.1], None), False),
        ((1.0, None, [1.0, 2.0]), False),
    ],
)
def test_what_changes_nothing_is_known(numbers, identity):
    assert is_identity(*numbers) is identity


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"scale": 0.0}, "scale must be a positive number, got 0"),
        ({"scale": float("nan")}, "scale must be a positive number, got nan"),
        ({"mean": ()}, r"mean must be finite numbers, one or one a channel, got \[\]"),
        ({"mean": (float("inf"),)}, "mean must be finite numbers"),
        ({"std": (1.0, 0.0)}, "std must be positive numbers"),
        ({"mean": (1.0,), "std": (1.0, 2.0)}, "mean and std must be of one length, got 1 and 2"),
        ({"mean": (1.0, 2.0)}, "the input's mean must have 1 or 3 numbers for images of 3 channels, got 2"),
        ({"std": (1.0, 2.0)}, "the input's std must have 1 or 3 numbers for images of 3 channels, got 2"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(numbers, words):
    with pytest.raises(InputError, match=words):
        shown(torch.ones(1, 3, 1, 1), **numbers)
