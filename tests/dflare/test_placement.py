"""Classifiers on another device: `meta`, which torch treats as one wherever it runs, stands for a GPU.

Tensors there have no values, so what a model computes is checked on the CPU and where it computes on `meta`.
"""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from dflare.classifiers import ModelPair
from dflare.errors import InputError
from dflare.models.interface import Interface
from dflare.models.moving import move_module, without_tf32
from dflare.models.placement import CPU, Placed, place
from dflare.models.shown import Shown

META = torch.device("meta")
IMAGES = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class Sums(nn.Module):
    """A network with a weight, a buffer, a constant, and devices in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -1.0]))
        self.register_buffer("shift", torch.tensor([0.5, 0.0]))
        self.scale = torch.tensor([2.0, 3.0])  # no buffer

    def forward(self, images: Tensor) -> Tensor:
        total = images.sum((1, 2, 3))[:, None].to("cpu")
        ramp = torch.arange(2, device="cpu").float() + torch.zeros(2, device="cpu")
        return (total * self.weight + self.shift) * self.scale + torch.tensor([1.0, 2.0]) + ramp


class Scaled(nn.Module):
    """A network of the user's own with a constant that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(16, 2), torch.tensor([2.0, 3.0])

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1)) * self.scale


class Recorder:
    """A model that can be moved and notes where it was asked; answers on the CPU, which `meta` cannot be copied to."""

    def __init__(self, refuses: str | None = None, fails: tuple[str, ...] = ()) -> None:
        self.refuses, self.fails = refuses, fails
        self.device, self.asked = CPU, []

    def to(self, device: torch.device) -> str | None:
        if self.refuses is None or device == CPU:
            self.device = device
            return None
        return self.refuses

    def __call__(self, values: Tensor) -> Tensor:
        self.asked.append((self.device.type, values.device.type))
        if values.device.type in self.fails:
            raise RuntimeError("no kernel for this\nand much more")
        return torch.zeros(len(values), 3, dtype=torch.float64)


def exported(module: nn.Module) -> nn.Module:
    dynamic = {"images": {0: Dim("batch")}}
    return torch.export.export(module.eval(), (IMAGES[:2],), dynamic_shapes=dynamic).module()


@pytest.mark.parametrize("kind", ["plain", "exported"])
def test_a_module_is_moved_with_its_constants_and_the_devices_in_its_graph(kind: str) -> None:
    module = exported(Sums()) if kind == "exported" else Scaled()
    move_module(module, META)
    assert module(IMAGES.to(META)).device == META
    with pytest.raises(RuntimeError):  # a wrong case: had anything stayed, images here would do
        module(IMAGES)


def test_a_graph_that_is_only_told_to_move_fails_there() -> None:
    with pytest.raises(RuntimeError):
        exported(Sums()).to(META)(IMAGES.to(META))


def test_an_exported_graph_answers_the_same_after_its_devices_were_written_anew() -> None:
    module = exported(Sums())
    before = module(IMAGES)
    move_module(module, CPU)
    assert torch.equal(module(IMAGES), before)
    total = IMAGES.sum((1, 2, 3))
    expected = torch.stack([(total + 0.5) * 2 + 1, -total * 3 + 2 + 1], 1)
    assert torch.allclose(before, expected)


def test_weights_moved_while_questions_are_asked_can_still_be_trained() -> None:
    module = nn.Linear(2, 2)
    with torch.inference_mode():
        move_module(module, META)
    assert not module.weight.is_inference()


def test_a_classifier_for_the_cpu_is_left_as_it_is() -> None:
    shown = Shown(Recorder())
    assert place(shown, CPU) is shown


def test_images_are_prepared_on_the_device_and_scores_come_back() -> None:
    model = Recorder()
    interface = Interface(range=(0, 255), mean=(3.0,), std=(2.0,), channels="rgb", layout="nhwc", classes="2,0")
    placed = place(Shown(model, interface), META)
    scores = placed(IMAGES)
    assert model.asked == [("meta", "meta")]
    assert (scores.device, scores.dtype, tuple(scores.shape)) == (CPU, torch.float32, (5, 2))


def test_every_way_of_showing_an_image_works_on_any_device() -> None:
    for interface in (
        Interface(fit="crop", size=(6, 7), channels="bgr"),
        Interface(fit="stretch", size=(8, 3), channels="grey", mean=(0.5,), std=(0.1,), range=(-1, 1)),
        Interface(channels="rgb", mean=(1, 2, 3), std=(1, 2, 3), layout="nhwc"),
    ):
        images = torch.rand(2, 3, 4, 4, device=META)
        assert Shown(Recorder(), interface).show(images).device == META
    read = Shown(Recorder(), Interface(scores="probabilities", classes="1-2")).read
    assert read(torch.rand(2, 3, device=META)).device == META


def test_what_cannot_be_moved_stays_and_is_named() -> None:
    said: list[str] = []
    fixed = Shown(Recorder(refuses="its runtime knows no GPU"))
    assert place(fixed, META, said.append) is fixed
    plain = Shown(lambda values: values.flatten(1))
    assert place(plain, META, said.append) is plain
    assert said == ["its runtime knows no GPU", "a function says not how to move it"]


def test_a_device_that_is_not_there_leaves_the_model_on_the_cpu() -> None:
    said: list[str] = []
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    placed = place(network, torch.device("cuda", 99), said.append)
    assert len(said) == 1
    assert said[0].startswith("it cannot be moved to cuda:99: ")
    assert placed(IMAGES).shape == (5, 2)


def test_a_model_that_fails_with_its_first_batch_goes_on_on_the_cpu_and_says_so_once() -> None:
    said: list[str] = []
    model = Recorder(fails=("meta",))
    placed = place(Shown(model), META, said.append)
    for _ in range(3):
        assert placed(IMAGES).shape == (5, 3)
    assert said == ["it fails on meta: no kernel for this"]
    assert model.asked == [("meta", "meta"), *[("cpu", "cpu")] * 3]


def test_a_model_that_fails_later_is_not_moved_behind_ones_back() -> None:
    model = Recorder()
    placed = place(Shown(model), META)
    placed(IMAGES)
    model.fails = ("meta",)
    with pytest.raises(RuntimeError, match="no kernel"):
        placed(IMAGES)


def test_what_is_wrong_with_the_images_is_said_as_ever() -> None:
    said: list[str] = []
    placed = place(Shown(Recorder(), Interface(size=(9, 9))), META, said.append)
    with pytest.raises(InputError, match="takes images of 9 x 9 pixels"):
        placed(IMAGES)
    assert said == []


def test_pinned_memory_is_asked_for_on_a_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor that claims to be moved: all that can be seen of a transfer without a GPU."""
    steps: list[object] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: steps.append("pinned") or self)
    monkeypatch.setattr(Tensor, "to", lambda self, *to, **how: steps.append((*to, how)) or self)
    device = torch.device("cuda", 1)
    Placed(lambda values: values.flatten(1), Recorder(), device, print)(IMAGES)
    assert steps == ["pinned", (device, {"non_blocking": True}), ("cpu", torch.float32, {})]
    steps.clear()
    Placed(lambda values: values.flatten(1), Recorder(), META, print)(IMAGES)
    assert steps[0] == (META, {"non_blocking": True})


def test_a_pair_of_a_moved_and_a_fixed_model_answers() -> None:
    said: list[str] = []
    moved, fixed = Recorder(), Recorder(refuses="no")
    pair = ModelPair(place(Shown(moved), META, said.append), place(Shown(fixed), META, said.append))
    pair((IMAGES * 255).to(torch.uint8))
    assert moved.asked == [("meta", "meta")]
    assert fixed.asked == [("cpu", "cpu")]


def test_placing_turns_tf32_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = True
        without_tf32()
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
        assert os.environ.pop("NVIDIA_TF32_OVERRIDE") == "0"
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_the_default_says_it_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    place(Shown(Recorder(refuses="no GPU in it")), META)
    assert capsys.readouterr().err == "a model stays on the CPU: no GPU in it\n"


@pytest.mark.slow
def test_third_party_programs_are_moved_whole() -> None:
    """Every `.pt2` file at hand, int8 ones among them."""
    from dflare.models.exported import input_shape, load_program

    folder = Path(os.environ.get("DFLARE_BENCH") or Path(__file__).parents[2].parent / "shared") / "models"
    files = sorted(folder.glob("*/*.pt2"))
    if not files:
        pytest.skip(f"no .pt2 files in {folder}")
    for file in files:
        program = load_program(file)
        shape = [size if isinstance(size, int) else 3 for size in input_shape(program, file)]
        module = program.module()
        move_module(module, META)
        assert module(torch.empty(shape, device=META)).device == META, file
