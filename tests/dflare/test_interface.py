"""What a user may say of a model: which values make sense, and who decides where several say something."""

import pytest

from dflare.errors import InputError
from dflare.models.interface import CHANNELS, FITS, LAYOUTS, SCORES, Interface, Takes, chosen_classes


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("0-3", [0, 1, 2, 3]),
        ("1-1000", list(range(1, 1001))),
        ("7,0-2", [7, 0, 1, 2]),
        ("5,3", [5, 3]),
        (" 2 - 4 , 9 ", [2, 3, 4, 9]),
        ("4-4,0", [4, 0]),
        ("999999,0", [999_999, 0]),
    ],
)
def test_classes_are_chosen_by_numbers_and_ranges_in_the_order_given(text, classes):
    assert chosen_classes(text) == classes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r'classes must be numbers and ranges such as "1-1000" or "3,0-2", got \'\''),
        ("1-", "must be numbers and ranges"),
        ("-1,2", "must be numbers and ranges"),
        ("1;2", "must be numbers and ranges"),
        ("1,,2", "must be numbers and ranges"),
        ("1.5,2", "must be numbers and ranges"),
        ("0-1000000", "must be numbers and ranges"),
        ("all", "must be numbers and ranges"),
        ("9-3", "must have ranges that go up, got '9-3'"),
        ("3", "must name two classes or more, each once, got '3'"),
        ("0-5,5", "each once"),
    ],
)
def test_other_lists_of_classes_are_refused(text, words):
    with pytest.raises(InputError, match=words):
        chosen_classes(text)
    with pytest.raises(InputError, match=words):
        Interface(classes=text)


def test_the_name_of_the_setting_stands_in_the_message():
    with pytest.raises(InputError, match=r"^models\.both\.classes must"):
        chosen_classes("x", "models.both.classes")


WRONG = [
    ({"range": (0,)}, r"range must be two numbers, for black and for white, such as \[0,255\], got \(0,\)"),
    ({"range": (0, 1, 2)}, "range must be two numbers"),
    ({"range": (1, 1)}, "range must be two numbers"),
    ({"range": (0, float("inf"))}, "range must be two numbers"),
    ({"range": (float("nan"), 1)}, "range must be two numbers"),
    ({"mean": ()}, r"mean must be finite numbers, one or one a channel, got \[\]"),
    ({"mean": (float("inf"),)}, "mean must be finite numbers"),
    ({"std": (1.0, 0.0)}, "std must be positive numbers"),
    ({"std": (float("nan"),)}, "std must be positive numbers"),
    ({"mean": (1.0, 2.0), "std": (1.0, 2.0, 3.0)}, "mean and std must be of one length, got 2 and 3"),
    ({"channels": "rgba"}, "channels must be one of grey, rgb, bgr, got 'rgba'"),
    ({"layout": "NCHW"}, "layout must be one of nchw, nhwc, got 'NCHW'"),
    ({"fit": "pad"}, "fit must be one of stretch, crop, got 'pad'"),
    ({"scores": "softmax"}, "scores must be one of logits, probabilities, got 'softmax'"),
    ({"size": (224,)}, r"size must be height and width in pixels, such as \[224,224\], got \(224,\)"),
    ({"size": (0, 8)}, "size must be height and width"),
    ({"size": (8, 2**14 + 1)}, "size must be height and width"),
]


@pytest.mark.parametrize(("values", "words"), WRONG)
def test_values_that_make_no_sense_are_refused(values, words):
    with pytest.raises(InputError, match=f"^{words}"):
        Interface(**values)


def test_the_prefix_stands_before_every_name():
    interface = Interface(mean=(1.0, 2.0, 3.0), std=(1.0,))
    interface.check("models.both.")
    object.__setattr__(interface, "std", (1.0, 2.0))
    with pytest.raises(InputError, match=r"^models\.both\.mean and models\.both\.std must be of one length"):
        interface.check("models.both.")


@pytest.mark.parametrize(
    ("name", "choices"), [("layout", LAYOUTS), ("channels", CHANNELS), ("fit", FITS), ("scores", SCORES)]
)
def test_every_choice_is_taken(name, choices):
    for choice in choices:
        assert getattr(Interface(**{name: choice}), name) == choice


def test_numbers_may_go_down_and_lie_anywhere():
    assert Interface(range=(1, 0)).range == (1, 0)
    assert Interface(range=(-1, 1), mean=(-0.5,), std=(1e-3, 2.0, 9.0)).mean == (-0.5,)


def test_what_one_interface_leaves_open_is_taken_from_another():
    mine, other = Interface(range=(0, 255), mean=(1.0,)), Interface(range=(0, 1), std=(2.0,), layout="nhwc")
    assert mine.over(other) == Interface(range=(0, 255), mean=(1.0,), std=(2.0,), layout="nhwc")
    assert Interface().over(other) == other
    assert other.over(Interface()) == other


def test_an_interface_beats_the_file_and_the_file_beats_what_is_usual():
    usual = Interface(range=(0, 1), layout="nchw", scores="logits")
    assert Interface().completed(Takes()) == usual
    file = Takes(3, 8, 9, "nhwc", (0.0, 255.0), "probabilities")
    said = Interface(range=(0.0, 255.0), layout="nhwc", size=(8, 9), scores="probabilities")
    assert Interface().completed(file) == said
    mine = Interface(range=(-1, 1), layout="nchw", scores="logits", fit="crop")
    assert mine.completed(file) == Interface(range=(-1, 1), layout="nchw", scores="logits", fit="crop", size=said.size)


def test_a_size_of_which_the_file_knows_one_side_stays_open():
    assert Interface().completed(Takes(3, 8, None)).size is None
