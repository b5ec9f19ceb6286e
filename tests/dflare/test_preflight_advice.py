"""What the pre-flight advises where several ways do, where time is short, and where no way can help."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dflare.errors import InputError
from dflare.models.interface import Interface, Takes
from dflare.models.opening import open_classifier
from dflare.models.shown import Shown
from dflare.parity.advice import Tried, doubts
from dflare.parity.budget import SIEVE, budgeted
from dflare.parity.checked import Checked
from dflare.parity.choices import advised, choices
from dflare.parity.explanation import Explanation
from dflare.parity.preflight import preflight
from dflare.parity.slips import preset
from dflare.parity.symptoms import Symptoms

N, CLASSES = 200, 10
NOW = Interface(range=(0, 1), layout="nchw")
IMAGENET = Interface((0, 1), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), layout="nchw")
CIFAR10 = Interface((0, 1), (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616), layout="nchw")
CIFAR100 = Interface((0, 1), (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), layout="nchw")
HALVES = Interface((-1, 1), layout="nchw")
OWN = Interface((0, 1), (0.5066, 0.495, 0.468), layout="nchw")


def colours() -> tuple[Tensor, Tensor]:
    """Images, uint8 (200, 3, 4, 4), of ten colours, and which of them each is."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(N) % CLASSES
    base = torch.rand(CLASSES, 3, 1, 1, generator=generator)[labels]
    values = base + 0.05 * torch.randn(N, 3, 4, 4, generator=generator)
    return (values.clamp(0, 1) * 255).round().to(torch.uint8), labels


class Nearest:
    """Scores of the ten colours; `noise` makes another model of it."""

    def __init__(self, noise: float = 0.0) -> None:
        images, labels = colours()
        means = images.float().mean((2, 3)) / 255
        self.centres = torch.stack([means[labels == one].mean(0) for one in range(CLASSES)])
        self.centres += noise * torch.randn(self.centres.shape, generator=torch.Generator().manual_seed(1))

    def __call__(self, values: Tensor) -> Tensor:
        return -torch.cdist(values.mean((2, 3)), self.centres)


def answering(tops: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(tops, CLASSES).float()


def explained(new: Interface, wrong: int, own: bool = False, both: bool = False) -> Explanation:
    """One that gives all answers as the partner does, but for the first so many."""
    tops = torch.arange(N) % CLASSES
    changed = tops.clone()
    changed[:wrong] = (tops[:wrong] + 1) % CLASSES
    return Explanation((NOW, NOW), (new, new if both else NOW), (answering(changed), answering(tops)), 0.0, own)


def test_usual_numbers_that_images_cannot_tell_apart_are_all_named_the_most_usual_first() -> None:
    found = [explained(CIFAR100, 8), explained(CIFAR10, 9), explained(IMAGENET, 11), explained(HALVES, 10)]
    chosen = choices(found[0], [*found, explained(OWN, 0, own=True)], None, 0.7)
    assert [preset(one.new[0]) for one in chosen] == ["ImageNet", "CIFAR-10", "CIFAR-100", "0.5/0.5"]
    words, settings = advised(chosen)
    assert words == (
        "the original shown with mean and std of ImageNet, CIFAR-10, CIFAR-100 or 0.5/0.5 "
        "(these images cannot tell them apart)"
    )
    assert settings.startswith(
        "models.original.mean=[0.485,0.456,0.406] models.original.std=[0.229,0.224,0.225], or models.original.mean"
    )
    assert settings.endswith("or models.original.range=[-1,1]: take what the model was trained with")


def test_usual_numbers_that_are_surely_worse_are_not_named() -> None:
    best = explained(CIFAR10, 2)
    assert choices(best, [best, explained(IMAGENET, 40)], None, 0.7) == [best]


def test_the_images_own_mean_gives_way_to_a_range_and_then_to_a_name() -> None:
    own, half, named = explained(OWN, 0, own=True), explained(HALVES, 3), explained(CIFAR10, 2)
    assert choices(own, [own, named, half], None, 0.7) == [half, named]
    assert choices(own, [own, named], None, 0.7) == [named]
    worse = explained(HALVES, 30)
    assert choices(own, [own, worse], None, 0.7) == [own]
    assert own.words == "the original shown with the mean of the images themselves"


def test_advice_that_is_the_same_for_both_models_is_written_once() -> None:
    both = explained(IMAGENET, 0, both=True)
    assert both.settings == "models.both.mean=[0.485,0.456,0.406] models.both.std=[0.229,0.224,0.225]"
    unlike = Explanation((NOW, HALVES), (Interface((0, 255)), Interface((0, 255))), both.scores, 0.0)
    assert unlike.settings == "models.original.range=[0,255] models.compressed.range=[0,255]"


def test_nothing_is_advised_that_lowers_the_agreement() -> None:
    """The original knows the labels better then, but the compressed model does not follow: both are shown wrongly."""
    labels = torch.arange(N) % CLASSES
    wrong = (labels + (torch.arange(N) < 40)) % CLASSES
    other = (labels + 2 * (torch.arange(N) < 44)) % CLASSES
    now = Symptoms((answering(wrong), answering(wrong)), torch.zeros(N, 3, 4, 4, dtype=torch.uint8), labels)
    better = Explanation((NOW, NOW), (Interface((0, 1), channels="bgr"), NOW), (answering(labels), answering(other)), 1)
    checked = Checked(N, 160, (0.8, 0.8), (CLASSES, CLASSES))
    assert better.agreement < 160 / N
    assert doubts(now, checked, Tried([better], [], 9, None, labels), ()) == []


@pytest.mark.parametrize("busy", [1, 9])
def test_the_budget_does_not_depend_on_how_busy_the_machine_is(busy: int) -> None:
    images, _ = colours()
    passed = [0.0]

    def slow(values: Tensor) -> Tensor:
        passed[0] += 0.001 * len(values)
        return Nearest()(values)

    questions, sieve = budgeted((Shown(slow), Shown(slow)), images, 6, lambda: passed[0], lambda: busy * passed[0])
    assert questions.left == pytest.approx(6000, abs=1)
    assert sieve == 6000 // (2 * 2 * 60)
    assert budgeted((Shown(slow), Shown(slow)), images, 60, lambda: passed[0], lambda: passed[0])[1] == SIEVE


def test_a_model_that_waits_for_another_process_is_not_asked_on_and_on() -> None:
    images, _ = colours()
    passed = [0.0]

    def remote(values: Tensor) -> Tensor:
        passed[0] += len(values)
        return Nearest()(values)

    questions, _ = budgeted((Shown(remote), Shown(remote)), images, 6, lambda: 0.0, lambda: passed[0])
    assert questions.left == 60


@pytest.mark.parametrize("shift", [1, 9])
def test_shifted_labels_are_found_although_the_models_agree(shift: int) -> None:
    images, labels = colours()
    pair = Shown(Nearest()), Shown(Nearest(0.02))
    checked = preflight(*pair, images, (labels + shift) % CLASSES, 0.7)
    order = {1: "9,0-8", 9: "1-9,0"}[shift]
    assert checked.warnings[0].settings == f"models.both.classes={order}"
    assert "or the labels are counted otherwise" in str(checked.warnings[0])


def test_labels_in_another_order_are_asked_about() -> None:
    images, labels = colours()
    some = torch.tensor([0, 1, 2, 3, 4, 8, 9, 5, 7, 6])[labels]
    for order in (some, torch.randperm(CLASSES, generator=torch.Generator().manual_seed(3))[labels]):
        checked = preflight(Shown(Nearest()), Shown(Nearest(0.02)), images, order, 0.7)
        assert checked.fatal is None
        assert "of 200 images: are the labels those of these models, in this order?" in str(checked.warnings[-1])


def test_labels_counted_from_one_are_asked_about() -> None:
    images, labels = colours()
    checked = preflight(Shown(Nearest()), Shown(Nearest(0.02)), images, labels + 1, 0.7)
    assert checked.accuracy == (None, None)
    assert str(checked.warnings[0]).startswith("the labels go from 1 to 10, the models' classes from 0 to 9:")


def test_what_was_left_out_is_said_without_a_finding_too() -> None:
    images, _ = colours()
    checked = preflight(Shown(Nearest()), Shown(Nearest(0.12)), images, None, 0.3, seconds=1e-9)
    assert checked.agreement is not None
    assert checked.agreement < 0.95
    assert "not all was tried" in str(checked.warnings[0])


@pytest.mark.parametrize("raised", [InputError("it cannot be opened"), MemoryError("out of memory"), KeyError("mine")])
def test_a_failure_that_no_slip_explains_is_tried_once_more_at_most(raised: Exception) -> None:
    images, _ = colours()
    asked = []

    def failing(values: Tensor) -> Tensor:
        asked.append(len(values))
        raise raised

    for takes, times in ((Takes(), 2), (Takes(channels=3, layout="nchw"), 1)):
        asked.clear()
        checked = preflight(Shown(failing, takes=takes), Shown(Nearest()), images, None, 0.7)
        assert checked.fatal is not None
        assert str(raised.args[0]) in str(checked.fatal)
        assert "usual slips" not in str(checked.fatal)
        assert len(asked) == times


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_a_broken_model_is_spoken_of_once(value: float) -> None:
    images, labels = colours()
    broken = Shown(lambda values: torch.full((len(values), CLASSES), value))
    checked = preflight(broken, Shown(Nearest()), images, labels, 0.7)
    assert len(checked.findings) == 1
    assert checked.fatal is not None


def test_a_channel_order_is_doubted_at_less_than_other_ways() -> None:
    """A gain of 16 images at a loss of 5, as ResNet-20 and its pruned copy show it: McNemar's 2.4."""
    tops = torch.arange(N) % CLASSES
    before, after = tops.clone(), tops.clone()
    before[:16] = (tops[:16] + 1) % CLASSES
    after[20:25] = (tops[20:25] + 1) % CLASSES
    now = Symptoms((answering(before), answering(tops)), torch.zeros(N, 3, 4, 4, dtype=torch.uint8), None)
    for new, expected in ((Interface((0, 1), channels="bgr"), 1), (Interface((0, 255)), 0)):
        one = Explanation((NOW, NOW), (new, NOW), (answering(after), answering(tops)), 1.0)
        checked = Checked(N, N - 16, (None, None), (CLASSES, CLASSES))
        assert len(doubts(now, checked, Tried([one], [], 9, None, None), ())) == expected


def test_errors_of_onnx_runtime_do_not_stand_on_the_terminal_as_well(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
    ]
    weights = helper.make_tensor("weights", kind, (12, CLASSES), [0.5] * 120)
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("images", kind, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("scores", kind, ["n", CLASSES])], [weights],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "wrong.onnx").write_bytes(made.SerializeToString())
    images, _ = colours()
    checked = preflight(open_classifier(tmp_path / "wrong.onnx", threads=1), Shown(Nearest()), images, None, 0.7)
    assert "cannot be run" in str(checked.fatal)
    assert "usual slips" not in str(checked.fatal)
    assert capfd.readouterr().err == ""
