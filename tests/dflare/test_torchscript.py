"""TorchScript files: they answer as the network does, and run only where that is allowed."""

import copy
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dflare.classifiers import ModelPair
from dflare.errors import InputError
from dflare.models.interface import Interface, Takes
from dflare.models.shown import Shown
from dflare.models.torchscript import TorchScriptModel, open_torchscript


class Strict(nn.Module):
    """Takes images of one channel only and returns its scores by name."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        assert images.shape[1] == 1, "one channel, please"
        return {"features": images, "logits": images.mean((2, 3)).repeat(1, 3)}


class Fixed(nn.Module):
    """Answers as if every batch were one image."""

    def forward(self, images: Tensor) -> Tensor:
        return images.reshape(1, -1)


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(72, 3))


def save(path: Path, module: nn.Module, make: Callable[[nn.Module], nn.Module] = torch.jit.script) -> Path:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)  # torch deprecates all of it
        torch.jit.save(make(module), path)
    return path


MAKERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "scripted": lambda module: torch.jit.script(module),
    "traced": lambda module: torch.jit.trace(module.eval(), torch.zeros(1, 1, 8, 8)),
    "frozen": lambda module: torch.jit.freeze(torch.jit.script(module.eval())),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_it_answers_as_the_network_does_in_evaluation_mode(tmp_path, maker):
    module = network().train()
    path = save(tmp_path / "m.pt", module, MAKERS[maker])
    model = open_torchscript(path, allow_code=True)
    assert model.takes == Takes()
    values = torch.rand(5, 1, 8, 8)
    with torch.inference_mode():
        expected = module.eval()(values)
        for _ in range(4):  # the interpreter optimises at the second call; freezing folds batch normalisation
            assert torch.allclose(model(values), expected, atol=0 if maker != "frozen" else 1e-5)
        assert model(values[:1]).shape == (1, 3)


def test_it_is_a_classifier_behind_an_interface(tmp_path):
    path = save(tmp_path / "m.pt", network())
    shown = Shown(open_torchscript(path, True), Interface(range=(0, 255)), Takes(), str(path))
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    outputs = ModelPair(shown, lambda pixels: network().eval()(pixels * 255))(images)
    assert torch.equal(outputs.original, outputs.compressed)


def test_it_can_be_differentiated_after_it_was_opened_by_a_question(tmp_path):
    model = open_torchscript(save(tmp_path / "m.pt", network()), True)
    with torch.inference_mode():
        model(torch.zeros(1, 1, 8, 8))
    values = torch.rand(2, 1, 8, 8, requires_grad=True)
    (slope,) = torch.autograd.grad(model(values).sum(), values)
    assert slope.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in model._opened().parameters())


def test_scores_are_found_by_name(tmp_path):
    model = open_torchscript(save(tmp_path / "m.pt", Strict()), True)
    assert torch.equal(model(torch.ones(2, 1, 4, 4)), torch.ones(2, 3))


# --- what is refused ---


def test_it_runs_only_where_code_is_allowed(tmp_path):
    path = save(tmp_path / "m.pt", network())
    with pytest.raises(InputError, match=r"^the TorchScript program in .*m\.pt is code, which runs only with --allow"):
        open_torchscript(path, allow_code=False)


@pytest.mark.parametrize("allow_code", [False, True])
def test_it_never_runs_out_of_a_run_folder(tmp_path, allow_code):
    (tmp_path / "round-00").mkdir()
    path = save(tmp_path / "round-00" / "m.pt", network())
    (tmp_path / "config.yaml").touch()
    (tmp_path / "environment.json").touch()
    with pytest.raises(InputError, match=r"m\.pt is code in a run folder, from where code is never run; give the file"):
        open_torchscript(path, allow_code)


def test_the_reason_is_the_programs_own(tmp_path):
    model = open_torchscript(save(tmp_path / "m.pt", network()), True)
    with pytest.raises(InputError, match=r"cannot be run: RuntimeError: .*expected input\[2, 3, 8, 8\] to have 1 chan"):
        model(torch.zeros(2, 3, 8, 8))
    strict = open_torchscript(save(tmp_path / "s.pt", Strict()), True)
    with pytest.raises(InputError, match=r"cannot be run: RuntimeError: AssertionError: one channel, please$"):
        strict(torch.zeros(2, 3, 8, 8))


def test_a_batch_that_is_not_answered_row_by_row_is_refused(tmp_path):
    model = open_torchscript(save(tmp_path / "m.pt", Fixed()), True)
    assert model(torch.zeros(1, 1, 4, 4)).shape == (1, 16)
    with pytest.raises(InputError, match=r"one row of scores an image, \(3, classes\) for 3 images, got \(1, 48\); if"):
        model(torch.zeros(3, 1, 4, 4))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_refused(tmp_path, share):
    path = save(tmp_path / "m.pt", network())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match="cut off"):
        open_torchscript(path, True)


def test_a_file_that_is_broken_inside_is_refused_when_it_is_asked(tmp_path):
    path = save(tmp_path / "m.pt", network())
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, b"def (" if name.endswith(".py") else content)
    model = open_torchscript(path, True)
    with pytest.raises(InputError, match=r"the TorchScript program in .*m\.pt cannot be loaded by torch "):
        model(torch.zeros(1, 1, 8, 8))


def test_a_missing_file_and_one_of_another_format_are_refused(tmp_path):
    with pytest.raises(InputError, match="found none"):
        open_torchscript(tmp_path / "gone.pt", True)
    (tmp_path / "m.pt").write_bytes(b"\x1c\x00\x00\x00TFL3")
    with pytest.raises(InputError, match=r"expected a TorchScript program in .*, got a model of format litert"):
        open_torchscript(tmp_path / "m.pt", True)


# --- one program a process ---


def test_it_is_opened_once_and_only_when_asked(tmp_path, monkeypatch):
    path = save(tmp_path / "m.pt", network())
    opened: list[Path] = []
    monkeypatch.setattr("dflare.models.torchscript._load", lambda path, device: opened.append(path) or network().eval())
    model = open_torchscript(path, True)
    assert opened == []
    for _ in range(3):
        model(torch.zeros(1, 1, 8, 8))
    assert opened == [path]
    monkeypatch.setattr(os, "getpid", lambda: -1)  # another process, after a fork
    model(torch.zeros(1, 1, 8, 8))
    assert opened == [path, path]


def test_copies_open_their_own(tmp_path):
    model = open_torchscript(save(tmp_path / "m.pt", network()), True)
    values = torch.rand(2, 1, 8, 8)
    expected = model(values)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert isinstance(other, TorchScriptModel)
        assert other._program is None
        assert torch.equal(other(values), expected)
