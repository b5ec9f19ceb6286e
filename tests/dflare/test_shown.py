"""What a model is shown in place of images in [0, 1], step by step, and how its answers are read."""

import copy
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dflare.classifiers import Outputs, check_scores, to_unit
from dflare.errors import InputError
from dflare.models.interface import Interface, Takes
from dflare.models.shown import Shown, logarithms

NOTHING = Takes()


def values_of(images: Tensor, takes: Takes = NOTHING, **said: Any) -> Tensor:
    return Shown(lambda values: values, Interface(**said), takes).show(images)


def scores_of(answers: Tensor, **said: Any) -> Tensor:
    return Shown(lambda values: answers, Interface(**said)).read(answers)


def pictures(n: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth random pictures, uint8 (n, channels, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((n, channels, 5, 6), generator=generator)
    return (nn.functional.interpolate(coarse, (height, width), mode="bicubic") * 255).clamp(0, 255).to(torch.uint8)


# what the numbers become

LEVELS = torch.arange(256, dtype=torch.float32)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [((0, 1), LEVELS / 255), ((0, 255), LEVELS), ((-1, 1), LEVELS / 255 * 2 - 1), ((255, 0), 255 - LEVELS)],
)
def test_every_grey_level_becomes_its_number_in_the_range(ends, expected):
    values = values_of((LEVELS / 255)[None, None, None], range=ends).flatten()
    assert values.dtype == torch.float32
    assert (values[0].item(), values[-1].item()) == ends
    if ends == (255, 0):
        torch.testing.assert_close(values, expected, atol=2e-5, rtol=0)
    else:
        assert torch.equal(values, expected)


def test_a_range_that_the_file_implies_is_used_unless_another_is_said():
    white, takes = torch.ones(1, 1, 1, 1), Takes(range=(0.0, 255.0))
    assert values_of(white, takes).item() == 255
    assert values_of(white, takes, range=(-1, 1)).item() == 1


def test_channels_are_shifted_and_divided_each_by_its_own_number_in_units_of_the_range():
    images = torch.tensor([[0.0, 0.5], [1.0, 0.25]])[None, :, :, None]  # two channels of two pixels
    values = values_of(images, range=(0, 4), mean=(1.0, 2.0), std=(1.0, 0.5))
    assert values[0, :, :, 0].tolist() == [[-1, 1], [4, -2]]


def test_one_number_holds_for_every_channel():
    assert values_of(torch.ones(2, 3, 1, 1), range=(0, 255), mean=(127.5,), std=(127.5,)).flatten().tolist() == [1] * 6
    assert values_of(torch.ones(1, 3, 1, 1), mean=(1.0, 0.5, 0.0), std=(0.5,)).flatten().tolist() == [0, 1, 2]


def test_without_a_word_nothing_changes():
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(values_of(images), images)
    assert torch.equal(values_of(images, mean=[0.0], std=[1.0, 1.0, 1.0], range=[0, 1], fit="crop"), images)


def test_images_handed_in_stay_as_they_are():
    images = torch.ones(1, 3, 2, 2)
    values_of(images, range=(0, 3), mean=(1.0,), std=(2.0,), channels="bgr", layout="nhwc", size=(4, 4), fit="crop")
    assert torch.equal(images, torch.ones(1, 3, 2, 2))


# channels and layout


def test_grey_images_are_shown_as_three_equal_channels():
    images = to_unit(pictures(2, 1, 4, 5))
    for said, takes in (({"channels": "rgb"}, NOTHING), ({"channels": "bgr"}, NOTHING), ({}, Takes(channels=3))):
        values = values_of(images, takes, **said)
        assert values.shape == (2, 3, 4, 5)
        assert (values == images).all()


def test_colours_are_shown_as_the_grey_that_pillow_makes_of_them():
    images = pictures(1, 3, 40, 50)
    picture = Image.fromarray(images[0].permute(1, 2, 0).numpy()).convert("L")
    for said, takes in (({"channels": "grey"}, NOTHING), ({}, Takes(channels=1))):
        values = values_of(to_unit(images), takes, **said)
        assert values.shape == (1, 1, 40, 50)
        assert (values[0, 0] * 255 - torch.from_numpy(np.array(picture)).float()).abs().max() <= 0.51


@pytest.mark.parametrize(("colour", "grey"), [((1, 0, 0), 0.299), ((0, 1, 0), 0.587), ((0, 0, 1), 0.114)])
def test_red_green_and_blue_have_their_shares_of_grey(colour, grey):
    images = torch.tensor(colour, dtype=torch.float32)[None, :, None, None]
    assert values_of(images, channels="grey").item() == pytest.approx(grey)


def test_blue_comes_first_in_bgr_and_the_means_follow_the_model():
    images = torch.tensor([0.1, 0.2, 0.3])[None, :, None, None]
    assert torch.equal(values_of(images, channels="bgr"), images.flip(1))
    assert torch.equal(values_of(images, channels="rgb"), images)
    shifted = values_of(images, channels="bgr", mean=(0.3, 0.2, 0.1))
    assert shifted.flatten().tolist() == [0, 0, 0]


@pytest.mark.parametrize(("said", "takes"), [({"layout": "nhwc"}, NOTHING), ({}, Takes(layout="nhwc"))])
def test_channels_come_last_where_the_model_wants_them_there(said, takes):
    images = to_unit(pictures(2, 3, 4, 5))
    values = values_of(images, takes, **said)
    assert values.is_contiguous()
    assert torch.equal(values, images.permute(0, 2, 3, 1))


def test_a_layout_that_is_said_beats_that_of_the_file():
    assert values_of(torch.ones(2, 3, 4, 5), Takes(layout="nhwc"), layout="nchw").shape == (2, 3, 4, 5)


# sizes


def in_pillow(image: Tensor, height: int, width: int) -> Tensor:
    """One uint8 image (c, h, w) resized by Pillow, bilinear, float (c, height, width)."""
    planes = [
        np.array(Image.fromarray(plane.numpy()).resize((width, height), Image.Resampling.BILINEAR)) for plane in image
    ]
    return torch.from_numpy(np.stack(planes)).float()


@pytest.mark.parametrize("size", [(20, 30), (13, 47), (64, 50), (100, 120)])
def test_stretched_images_are_those_of_pillow_within_a_grey_level(size):
    images = pictures(3, 3, 64, 80)
    values = values_of(to_unit(images), size=size, fit="stretch") * 255
    assert values.shape == (3, 3, *size)
    expected = torch.stack([in_pillow(image, *size) for image in images])
    assert (values - expected).abs().max() < 1.01  # Pillow rounds twice, to whole levels


@pytest.mark.parametrize(
    ("came", "size", "inner", "corner"),
    [
        ((64, 80), (32, 32), (32, 40), (0, 4)),
        ((80, 64), (32, 32), (40, 32), (4, 0)),
        ((64, 80), (20, 40), (32, 40), (6, 0)),
        ((20, 20), (30, 50), (50, 50), (10, 0)),
    ],
)
def test_cropped_images_keep_their_shape_and_their_middle(came, size, inner, corner):
    images = pictures(2, 3, *came)
    values = values_of(to_unit(images), size=size, fit="crop") * 255
    whole = torch.stack([in_pillow(image, *inner) for image in images])
    expected = whole[:, :, corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]
    assert values.shape == expected.shape
    assert (values - expected).abs().max() < 1.01  # Pillow rounds twice, to whole levels


@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_images_of_the_right_size_are_not_touched(fit):
    images = to_unit(pictures(2, 3, 8, 9))
    assert torch.equal(values_of(images, Takes(3, 8, 9), fit=fit), images)


@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_a_file_that_knows_one_side_decides_that_one(fit):
    assert values_of(torch.ones(1, 3, 8, 9), Takes(3, 16, None), fit=fit).shape == (1, 3, 16, 9)
    assert values_of(torch.ones(1, 3, 8, 9), Takes(3, None, 4), fit=fit).shape == (1, 3, 8, 4)


def test_images_of_several_sizes_can_follow_each_other():
    shown = Shown(lambda values: values, Interface(size=(4, 4), fit="stretch"))
    for side in (2, 9, 2, 4):
        assert shown.show(torch.ones(1, 1, side, side)).shape == (1, 1, 4, 4)


# refusals


@pytest.mark.parametrize(
    ("came", "takes", "said", "words"),
    [
        ((1, 4, 2, 2), Takes(channels=3), {}, "the model takes images of 3 channels, got 4$"),
        ((1, 2, 2, 2), NOTHING, {"channels": "grey"}, "takes images of 1 channels, got 2 to be shown as grey"),
        (
            (1, 3, 2, 2),
            Takes(channels=3),
            {"channels": "grey"},
            "takes images of 3 channels, got 3 to be shown as grey",
        ),
        ((1, 3, 2, 2), NOTHING, {"mean": (1.0, 2.0)}, "the mean of the model must have 1 or 3 numbers for 3 channels"),
        ((1, 3, 2, 2), NOTHING, {"std": (1.0, 2.0)}, "the std of the model must have 1 or 3 numbers for 3 .*, got 2"),
        ((1, 1, 2, 2), NOTHING, {"std": (1.0, 2.0)}, "the std of the model must have 1 number for 1 channels, got 2"),
        ((1, 3, 2, 2), NOTHING, {"channels": "grey", "mean": (1.0,) * 3}, "must have 1 number for 1 channels, got 3"),
        ((1, 3, 5, 6), Takes(3, 7, 8), {}, r"takes images of 7 x 8 pixels \(height x width\), got 5 x 6; set data"),
        ((1, 3, 5, 6), Takes(3, 7, None), {}, "takes images of 7 x 6 pixels"),
        ((1, 3, 5, 6), NOTHING, {"size": (5, 7)}, "takes images of 5 x 7 pixels .* models.both.fit=stretch"),
        ((1, 3, 5, 6), Takes(3, 7, 8), {"size": (7, 9)}, r"takes images 8 pixels wide, its size was .* \[7, 9\]"),
        ((1, 3, 5, 6), Takes(3, 7, 8), {"size": (6, 8)}, "takes images 7 pixels high"),
    ],
)
def test_images_that_cannot_be_shown_are_refused_by_numbers(came, takes, said, words):
    with pytest.raises(InputError, match=words):
        values_of(torch.ones(came), takes, **said)


def test_whose_images_are_refused_is_said():
    with pytest.raises(InputError, match=r"^the model in m\.onnx takes images of 3 channels"):
        Shown(lambda values: values, takes=Takes(3), name="the model in m.onnx").show(torch.ones(1, 2, 1, 1))


# answers


def test_logits_are_read_as_they_are():
    answers = torch.tensor([[1.0, -2.0, 3.0]])
    assert scores_of(answers) is answers


def test_answers_with_a_pixel_are_read_as_scores():
    assert scores_of(torch.ones(2, 3, 1, 1)).shape == (2, 3)
    assert scores_of(torch.ones(2, 3, 2, 1)).shape == (2, 3, 2, 1)  # left for `check_scores` to refuse


def test_probabilities_become_scores_whose_softmax_gives_them_back():
    probabilities = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)).softmax(-1)
    for answers in (probabilities, probabilities.double(), probabilities[:, :, None, None]):
        scores = scores_of(answers, scores="probabilities")
        assert scores.dtype == torch.float32
        assert (scores.amax(-1) == 0).all()
        torch.testing.assert_close(scores.softmax(-1), probabilities)
    read = Shown(lambda values: values, takes=Takes(scores="probabilities")).read(probabilities)
    assert torch.equal(read, scores_of(probabilities, scores="probabilities"))


def test_logits_that_are_said_beat_probabilities_that_the_file_shows():
    answers = torch.ones(1, 2)
    assert (
        Shown(lambda values: values, Interface(scores="logits"), Takes(scores="probabilities")).read(answers) is answers
    )


def test_logarithms_tie_exactly_where_the_probabilities_do():
    top = torch.tensor(0.22)
    above = torch.nextafter(top, torch.tensor(1.0))
    assert top.log() == above.log()  # which is why the logarithm alone will not do
    probabilities = torch.stack(
        [torch.tensor([0.17, 0.17, 0.22, 0.22, 0.22]), torch.tensor([0.17, 0.17, top, top, above]), torch.eye(5)[0]]
    )
    scores = check_scores(logarithms(probabilities), 3, "compressed")
    assert (scores == 0).sum(-1).tolist() == [3, 1, 1]
    assert scores[2].isneginf().sum() == 4
    torch.testing.assert_close(scores[:1].softmax(-1), probabilities[:1] / probabilities[:1].sum())
    assert Outputs(scores[1:2], logarithms(torch.tensor([[0, 0, 0.5, 0.5, 0]]))).deviates.all()


def test_probabilities_that_all_round_to_zero_are_a_tie_of_all_and_nan_stays_nan():
    assert logarithms(torch.zeros(1, 4)).tolist() == [[0, 0, 0, 0]]
    assert logarithms(torch.full((1, 4), float("nan"))).isnan().all()


def test_what_rounding_left_below_zero_is_impossible():
    assert scores_of(torch.tensor([[1.0, -1e-9]]), scores="probabilities").tolist() == [[0, -torch.inf]]


def test_probabilities_below_the_floor_count_as_the_floor():
    shown = Shown(lambda values: values, Interface(scores="probabilities"), floor=0.01)
    torch.testing.assert_close(shown.read(torch.tensor([[1.0, 0.0, 0.1]])), torch.tensor([[1.0, 0.01, 0.1]]).log())


def test_classes_are_chosen_and_put_in_order():
    answers = torch.arange(8.0)[None]
    assert scores_of(answers, classes="7,0-2").tolist() == [[7, 0, 1, 2]]
    assert scores_of(torch.rand(2, 1001), classes="1-1000").shape == (2, 1000)


def test_probabilities_of_the_chosen_classes_keep_their_ratios():
    scores = scores_of(torch.tensor([[0.5, 0.1, 0.4]]), scores="probabilities", classes="1,2")
    torch.testing.assert_close(scores.softmax(-1), torch.tensor([[0.2, 0.8]]))


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (torch.ones(1, 3), r"classes 1-3 of the model must be answers that it gives, it gives \(3,\), counted from 0"),
        (torch.ones(1, 4, 2), r"it gives \(4, 2\)"),
        ([1, 2], "the model must return one tensor of scores, got a list"),
        ((torch.ones(1, 4),), "got a tuple"),
    ],
)
def test_answers_that_have_no_such_classes_are_refused(answers, words):
    with pytest.raises(InputError, match=words):
        scores_of(answers, classes="1-3")


# the whole

EVERYTHING: Sequence[dict[str, Any]] = [
    {"range": (-1, 1), "mean": (0.1, 0.2, 0.3), "std": (0.5,)},
    {"channels": "grey", "size": (9, 7), "fit": "stretch"},
    {"channels": "bgr", "size": (9, 7), "fit": "crop", "layout": "nhwc", "scores": "probabilities", "classes": "3,0-1"},
    {"size": (31, 33), "fit": "stretch", "range": (0, 255)},
    {"size": (1, 1), "fit": "crop"},
]


class Flat(nn.Module):
    """Positive scores of four classes for whatever it is shown."""

    def forward(self, values: Tensor) -> Tensor:
        return torch.stack([values.flatten(1).sin().abs().mean(1), *[(values.flatten(1).amax(1) / 255).exp()] * 3], 1)


@pytest.mark.parametrize("said", EVERYTHING)
@pytest.mark.parametrize("channels", [1, 3])
def test_what_an_image_becomes_does_not_depend_on_its_batch_bit_by_bit(said, channels):
    if channels == 1:
        said = said | {"mean": (0.1,)}
    images = to_unit(pictures(9, channels, 16, 14))
    shown = Shown(Flat(), Interface(**said))
    values, scores = shown.show(images), shown(images)
    assert values.is_contiguous()
    for size in (1, 2, 4):
        assert torch.equal(torch.cat([shown.show(part) for part in images.split(size)]), values)
        assert torch.equal(torch.cat([shown(part) for part in images.split(size)]), scores)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(shown.show(images[order]), values[order])


@pytest.mark.parametrize("said", EVERYTHING)
def test_gradients_flow_through_what_is_shown_and_what_is_read(said):
    images = to_unit(pictures(2, 3, 16, 14)).requires_grad_()
    weight = torch.ones(1, requires_grad=True)
    shown = Shown(lambda values: Flat()(values) * weight + weight**2, Interface(**said))
    (shown(images) * torch.arange(1.0, 1 + shown(images).shape[1])).sum().backward()
    assert images.grad is not None
    assert weight.grad is not None
    assert images.grad.isfinite().all()
    assert images.grad.abs().amax((1, 2, 3)).min() > 0
    assert weight.grad.abs().item() > 0


def test_the_gradient_of_a_range_is_its_width():
    images = torch.full((1, 1, 1, 1), 0.5, requires_grad=True)
    values_of(images, range=(-1, 1), std=(4.0,)).sum().backward()
    assert images.grad is not None
    assert images.grad.item() == 0.5


def test_a_copy_and_a_pickle_show_the_same():
    images = to_unit(pictures(3, 3, 16, 14))
    shown = Shown(Flat(), Interface(**EVERYTHING[2]))
    scores = shown(images)
    for other in (copy.deepcopy(shown), pickle.loads(pickle.dumps(shown))):
        assert torch.equal(other(images), scores)
