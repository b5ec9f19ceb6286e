"""Every usual slip is planted in turn on toy models, and the advice must name it; no advice where there is none."""

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from dflare.errors import InputError
from dflare.models.interface import Interface, Takes, chosen_classes
from dflare.models.shown import Shown
from dflare.parity.checked import Checked
from dflare.parity.class_order import usual_orders, written
from dflare.parity.preflight import preflight
from dflare.parity.questions import diversity, kappa, surely_better
from dflare.parity.slips import MOST, differences, numbers_seen, usual_interfaces, words
from dflare.parity.symptoms import are_probabilities

CLASSES, PER_CLASS, SIZE = 10, 24, 8
IMAGENET = Interface(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CAFFE = Interface(range=(0, 255), channels="bgr", mean=(103.939, 116.779, 123.68))


class Nearest:
    """Scores of the templates (classes, values): higher for a nearer one. What it sees must be of the right scale."""

    def __init__(self, seen: Tensor, noise: float = 0.0) -> None:
        blurred = seen + noise * seen.std() * torch.randn(seen.shape, generator=torch.Generator().manual_seed(5))
        self.templates, self.shape = blurred.flatten(1), seen.shape[1:]
        self.asked: list[int] = []

    def __call__(self, values: Tensor) -> Tensor:
        if values.shape[1:] != self.shape:
            raise RuntimeError(f"expected {tuple(self.shape)}\nand more")
        self.asked.append(len(values))
        return -torch.cdist(values.flatten(1), self.templates) / self.templates.std()


class World(NamedTuple):
    templates: Tensor  # (classes, c, SIZE, SIZE) in [0, 1]
    images: Tensor  # uint8
    labels: Tensor


def world(channels: int = 3) -> World:
    """Ten patterns of different brightness, colour and contrast, and noisy images of each in turn."""
    generator = torch.Generator().manual_seed(channels)
    base = torch.rand(CLASSES, channels, 1, 1, generator=generator) * 0.6 + 0.2
    pattern = torch.rand(CLASSES, channels, SIZE, SIZE, generator=generator) - 0.5
    templates = (base + 0.4 * pattern).clamp(0, 1)
    labels = torch.arange(CLASSES).repeat(PER_CLASS)
    noise = torch.randn(len(labels), channels, SIZE, SIZE, generator=generator)
    images = ((templates[labels] + 0.35 * noise).clamp(0, 1) * 255).round().to(torch.uint8)
    return World(templates, images, labels)


def model(known: World, wants: Interface, shown: Interface | None = None, noise: float = 0.0) -> Shown:
    """A model that wants to be shown images as `wants` says and is shown them as `shown` does."""
    order = chosen_classes(wants.classes or "0-9")
    seen = Shown(lambda values: values, wants).show(known.templates[torch.tensor(order).argsort()])
    return Shown(Nearest(seen, noise=noise), wants if shown is None else shown, name="the model")


SLIPS = {
    "of 255": (3, Interface(range=(0, 255)), Interface(), "range=[0,255]"),
    "of 1": (3, Interface(), Interface(range=(0, 255)), "range=[0,1]"),
    "about 0": (3, Interface(range=(-1, 1)), Interface(range=(0, 255)), "range=[-1,1]"),
    "bgr": (3, Interface(channels="bgr"), Interface(), "channels=bgr"),
    "rgb": (3, Interface(), Interface(channels="bgr"), "channels=rgb"),
    "nhwc": (3, Interface(layout="nhwc"), Interface(), "layout=nhwc"),
    "ImageNet": (3, IMAGENET, Interface(), "mean=[0.485,0.456,0.406] X.std=[0.229,0.224,0.225]"),
    "twice": (3, Interface(), IMAGENET, "mean=[0] X.std=[1]"),
    "units": (3, IMAGENET, replace(IMAGENET, range=(0, 255)), "range=[0,1]"),
    "Caffe": (3, CAFFE, Interface(), "range=[0,255] X.mean=[103.939,116.779,123.68] X.channels=bgr"),
    "MNIST": (1, Interface(mean=[0.1307], std=[0.3081]), Interface(), "mean=[0.1307] X.std=[0.3081]"),
    "grey of 255": (1, Interface(range=(0, 255)), Interface(), "range=[0,255]"),
    "inverted": (1, Interface(range=(1, 0)), Interface(), "range=[1,0]"),
    "shifted": (3, Interface(classes="1-9,0"), Interface(), "classes=1-9,0"),
    "shifted back": (3, Interface(classes="9,0-8"), Interface(), "classes=9,0-8"),
}


@pytest.mark.parametrize("labelled", [True, False], ids=["labelled", "unlabelled"])
@pytest.mark.parametrize("wrong", [0, 1], ids=["original", "compressed"])
@pytest.mark.parametrize("slip", SLIPS)
def test_a_planted_slip_is_found_and_repaired_by_the_advice(slip: str, wrong: int, labelled: bool) -> None:
    channels, right, shown, expected = SLIPS[slip]
    known = world(channels)
    interfaces = [right, right]
    interfaces[wrong] = shown
    pair = [model(known, right, as_shown, noise) for as_shown, noise in zip(interfaces, (0.0, 0.05), strict=True)]
    checked = preflight(*pair, known.images, known.labels if labelled else None, 0.97, seconds=600)
    assert checked.fatal is not None, checked
    name = f"models.{('original', 'compressed')[wrong]}."
    if labelled:
        assert checked.fatal.settings == name + expected.replace("X.", name)
    else:
        assert name + expected.replace("X.", name) in str(checked.fatal)


@pytest.mark.parametrize("slip", ["of 255", "about 0", "Caffe", "shifted", "inverted"])
def test_labels_show_that_both_are_wrong_in_the_same_way_although_they_agree(slip: str) -> None:
    channels, right, shown, expected = SLIPS[slip]
    known = world(channels)
    pair = [model(known, right, shown, noise) for noise in (0.0, 0.01)]
    checked = preflight(*pair, known.images, known.labels, 0.7)
    assert checked.agreement is not None
    assert checked.agreement > 0.7
    assert checked.fatal is None
    assert checked.warnings[0].settings == "models.both." + expected.replace("X.", "models.both.")


def test_two_that_say_one_class_of_everything_are_told_how_they_would_not_without_labels() -> None:
    known = world()
    pair = [model(known, Interface(range=(0, 255)), Interface(), noise) for noise in (0.0, 0.01)]
    checked = preflight(*pair, known.images, None, 0.7)
    assert checked.agreement == 1
    assert checked.warnings[0].settings == "models.both.range=[0,255]"
    assert "answers class" in str(checked.warnings[1])


def test_a_pair_shown_rightly_gets_figures_and_no_advice() -> None:
    known = world()
    checked = preflight(model(known, IMAGENET), model(known, IMAGENET, noise=0.05), known.images, known.labels, 0.7)
    assert checked == Checked(240, 240, (1.0, 1.0), (10, 10))


@pytest.mark.parametrize("labelled", [True, False], ids=["labelled", "unlabelled"])
@pytest.mark.parametrize("seed", range(5))
def test_models_that_truly_differ_get_no_advice(seed: int, labelled: bool) -> None:
    """The compressed model knows six of the classes and takes the others for one of them."""
    known = world()
    right = model(known, IMAGENET)
    seen = Shown(lambda values: values, IMAGENET).show(known.templates)
    generator = torch.Generator().manual_seed(seed)
    forgotten = torch.randperm(CLASSES, generator=generator)[:4]
    seen[forgotten] = torch.randn(4, *seen.shape[1:], generator=generator) * 3
    checked = preflight(right, Shown(Nearest(seen), IMAGENET), known.images, known.labels if labelled else None, 0.7)
    assert checked.fatal is not None
    assert not checked.fatal.settings
    assert "agree on 60." in str(checked.fatal)
    assert "none of the usual slips" in str(checked.fatal)
    assert "preflight.min_agreement if they really differ" in str(checked.fatal)


@pytest.mark.parametrize("seed", range(5))
def test_unrelated_models_get_no_advice(seed: int) -> None:
    known = world()
    templates = torch.rand(CLASSES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(100 + seed))
    other = Shown(Nearest(templates), Interface())
    for labels in (known.labels, None):
        checked = preflight(model(known, Interface()), other, known.images, labels, 0.7)
        assert checked.fatal is not None
        assert not checked.fatal.settings


def test_labels_of_other_classes_are_not_believed() -> None:
    known = world()
    wrong = known.labels[torch.randperm(len(known.labels), generator=torch.Generator().manual_seed(0))]
    pair = model(known, Interface(range=(0, 255))), model(known, Interface(range=(0, 255)), Interface())
    checked = preflight(*pair, known.images, wrong, 0.7)
    assert "no labels tell" in str(checked.fatal) or "models.compressed.range=[0,255]" in str(checked.fatal)
    fits = preflight(pair[0], pair[0], known.images, known.labels, 0.7, label_count=1000)
    assert fits.accuracy == (None, None)


@pytest.mark.parametrize(("place", "advice"), [(0, "1-10"), (10, "0-9")], ids=["first", "last"])
@pytest.mark.parametrize("larger", [0, 1], ids=["original", "compressed"])
def test_an_answer_too_many_is_named_with_the_end_where_it_stands(place: int, advice: str, larger: int) -> None:
    known = world()
    ten = model(known, Interface())
    templates = torch.cat([known.templates[:place], torch.full((1, 3, SIZE, SIZE), 9.0), known.templates[place:]])
    pair = [ten, ten]
    pair[larger] = Shown(Nearest(templates), Interface())
    checked = preflight(*pair, known.images, None, 0.7)
    assert checked.fatal is not None
    assert checked.fatal.settings == f"models.{('original', 'compressed')[larger]}.classes={advice}"
    assert f"got {(10, 11)[larger == 0]} from the original and {(10, 11)[larger]} from the compressed" in str(
        checked.fatal
    )
    assert "agree on 100.0 %" in str(checked.fatal)


def test_class_counts_far_apart_are_said_without_tries() -> None:
    known = world()
    few = Shown(Nearest(known.templates[:4]), Interface())
    checked = preflight(model(known, Interface()), few, known.images, None, 0.7)
    assert "got 10 from the original and 4 from the compressed" in str(checked.fatal)
    assert sum(few.model.asked) == len(known.images)  # type: ignore[attr-defined]


def test_not_a_number_is_counted_and_the_model_named() -> None:
    known = world()

    def sometimes(values: Tensor) -> Tensor:
        return torch.where(values[:, 0, 0, :1] > known.images[7, 0, 0, 0] / 255, values[:, 0, 0], torch.nan)

    checked = preflight(Shown(sometimes), model(known, Interface()), known.images, None, 0.7)
    bad = int((known.images[:, 0, 0, 0] <= known.images[7, 0, 0, 0]).sum())
    assert f"the original model must return finite scores, got NaN or infinity for {bad} of 240 images" in str(
        checked.fatal
    )


def test_a_range_that_overflows_is_repaired() -> None:
    known = world()
    right = model(known, Interface())

    def fragile(values: Tensor) -> Tensor:
        return torch.where(values.amax((1, 2, 3))[:, None] > 2, torch.inf, right.model(values))

    checked = preflight(right, Shown(fragile, Interface(range=(0, 255))), known.images, known.labels, 0.7)
    assert checked.fatal is not None
    assert "the compressed model must return finite scores, got NaN or infinity for 240 of 240" in str(checked.fatal)
    assert checked.fatal.settings == "models.compressed.range=[0,1]"


def test_a_constant_output_is_named_whatever_the_agreement() -> None:
    known = world()
    constant = Shown(lambda values: torch.arange(10.0).expand(len(values), 10))
    checked = preflight(constant, constant, known.images, known.labels, 0.7)
    assert "the original model must look at the images, it gives the same scores for all 240" in str(checked.fatal)
    same = known.images[:1].expand(30, -1, -1, -1)
    assert preflight(model(known, Interface()), model(known, Interface()), same, None, 0.7).fatal is None


def test_a_model_that_raises_is_quoted_in_one_line() -> None:
    known = world()
    small = Shown(Nearest(known.templates[..., :4]), name="the model of m:f")
    checked = preflight(small, model(known, Interface()), known.images, None, 0.7)
    assert "the model of m:f failed when it was shown images (50, 3, 8, 8): RuntimeError: expected (3, 8, 4)" in str(
        checked.fatal
    )
    assert "and more" not in str(checked.fatal)


def test_scores_of_another_shape_are_said() -> None:
    known = world()
    checked = preflight(Shown(lambda values: values), model(known, Interface()), known.images, None, 0.7)
    assert "must return scores of shape (50, classes) for 50 images, got (50, 3, 8, 8)" in str(checked.fatal)


def test_a_wrong_image_size_is_said_by_the_interface() -> None:
    known = world()
    with pytest.raises(InputError, match="takes images of 16 x 16 pixels"):
        preflight(Shown(lambda values: values, Interface(size=(16, 16))), model(known, Interface()), known.images,
                  None, 0.7)  # fmt: skip


def test_no_more_images_are_asked_at_once_than_a_model_takes() -> None:
    known = world()
    limited = Shown(Nearest(known.templates), Interface(range=(0, 255)), Takes(batches=(1, 7)))
    checked = preflight(limited, model(known, Interface()), known.images, known.labels, 0.7)
    assert checked.fatal is not None
    assert max(limited.model.asked) == 7  # type: ignore[attr-defined]


def test_slow_models_are_not_asked_on_and_on() -> None:
    known = world()
    slow = model(known, Interface(range=(0, 255)), Interface())
    checked = preflight(slow, model(known, Interface()), known.images, None, 0.7, seconds=1e-9)
    assert "not all was tried: that takes longer than 1e-09 s" in str(checked.fatal)
    checked = preflight(slow, model(known, Interface()), known.images, None, 0.7, seconds=0)
    assert str(checked.fatal).endswith("expected 70 % (preflight.min_agreement)")


def test_scores_of_very_different_size_betray_a_range_that_the_answers_do_not() -> None:
    """Templates without a constant: the nearest one by angle, whatever the length."""
    known = world()
    directions = torch.nn.functional.normalize(known.templates.flatten(1) - known.templates.flatten(1).mean(), dim=-1)

    def by_angle(values: Tensor) -> Tensor:
        return values.flatten(1) @ directions.T * 10

    pair = Shown(by_angle, Interface(range=(0, 255))), Shown(by_angle)
    checked = preflight(*pair, known.images, None, 0.7)
    assert checked.agreement is not None
    assert checked.agreement > 0.99
    assert checked.warnings[0].settings == "models.original.range=[0,1]"
    assert "one model's scores are 255 times the other's" in str(checked.warnings[0])


def test_the_other_models_own_numbers_are_tried() -> None:
    known = world()
    odd = Interface(range=(0, 1), mean=(0.11, 0.72, 0.33), std=(0.05, 0.9, 0.31))
    checked = preflight(model(known, odd), model(known, odd, Interface()), known.images, known.labels, 0.9)
    assert checked.fatal is not None
    assert checked.fatal.settings == "models.compressed.mean=[0.11,0.72,0.33] models.compressed.std=[0.05,0.9,0.31]"


def test_ways_are_few_different_and_the_present_one_comes_first() -> None:
    for now in (Interface(), IMAGENET, CAFFE):
        whole = now.completed(Takes())
        ways = usual_interfaces(whole, whole, Takes(), 3, [0.4, 0.5, 0.6], [0.2, 0.2, 0.2])
        assert ways[0] == whole
        assert 20 < len(ways) <= MOST
        assert len({numbers_seen(way, 3) for way in ways}) == len(ways)
        fixed = usual_interfaces(whole, whole, Takes(3, 8, 8, "nchw"), 3, [0.4, 0.5, 0.6], [0.2, 0.2, 0.2])
        assert {way.layout for way in fixed} == {"nchw"}
        grey = usual_interfaces(Interface(range=(0, 1)), whole, Takes(layout="nchw"), 1, [0.4], [0.2])
        assert {way.channels for way in grey} == {None}


def test_differences_are_settings_without_blanks_and_null_is_written_out() -> None:
    whole = IMAGENET.completed(Takes())
    new = replace(whole, range=(0, 255), mean=None, std=None, classes="1-9,0", channels="bgr")
    assert differences(whole, new) == {
        "range": "[0,255]", "mean": "[0]", "std": "[1]", "channels": "bgr", "classes": "1-9,0"
    }  # fmt: skip
    assert words(whole, new) == ("in the range [0,255], without mean and std, as bgr and with the classes 1-9,0")
    assert differences(whole, whole) == {}


def test_class_orders_are_shifts_or_drop_an_end() -> None:
    assert usual_orders(None, 4, 4) == [None, "1-3,0", "3,0-2"]
    assert usual_orders(None, 5, 4) == [None, "1-4", "0-3"]
    assert usual_orders("2,0-1,5-6", 5, 4) == ["2,0-1,5-6", "0-1,5-6", "2,0-1,5"]
    assert usual_orders(None, 4, 5) == [None]
    assert usual_orders(None, 1001, 1001)[1] == "1-1000"
    assert written([7]) == "7"


def test_kappa_is_agreement_beyond_chance() -> None:
    first = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1]])
    assert kappa(first, first, 2).diagonal().tolist() == [1, 0, 1]
    assert kappa(first, first, 2)[0, 2] == 0  # half agree, and so many do by chance
    assert diversity(first, 2).tolist() == pytest.approx([1, 0, 1], abs=1e-6)


def test_better_is_mcnemars() -> None:
    before = torch.zeros(40, dtype=torch.bool)
    assert surely_better(torch.arange(40) < 11, before, 3.3)
    assert not surely_better(torch.arange(40) < 10, before, 3.3)
    assert not surely_better(before, before, 3.3)


def test_probabilities_are_recognised_floats_and_eight_bits() -> None:
    scores = torch.randn(20, 10, generator=torch.Generator().manual_seed(0)) * 3
    assert are_probabilities(scores.softmax(-1))
    assert are_probabilities((scores.softmax(-1) * 256).round().clamp(max=255) / 256)
    assert not are_probabilities(scores)
    assert not are_probabilities(scores.sigmoid())
    assert not are_probabilities(scores.softmax(-1) * 1.01)
