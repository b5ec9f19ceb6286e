"""Files opened by what they hold: the table of formats, kernels and what answers."""

import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from dflare.errors import InputError
from dflare.models.interface import Interface, Takes
from dflare.models.opening import FORMATS, Opening, open_classifier, runtime_of
from dflare.models.shown import Shown

KERNELS = [(form, name) for form, row in FORMATS.items() for name in row.kernels]


@pytest.fixture
def sniffed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The format of a file is its name's ending, whatever it holds."""
    monkeypatch.setattr("dflare.models.opening.sniff", lambda path: path.suffix.removeprefix("."))


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"expected a model file at .*gone\.onnx, found none"):
        open_classifier(tmp_path / "gone.onnx")
    with pytest.raises(InputError, match="is a folder"):
        open_classifier(tmp_path)


@pytest.mark.parametrize("name", ["model.pt2", "model.onnx", "model.tflite", "model.pt", "model"])
def test_the_name_makes_no_model(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"none of them")
    with pytest.raises(InputError, match=rf"expected a model .*{name}, but it looks like text"):
        open_classifier(tmp_path / name)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_has_default_kernels_and_lists_them_against_unknown_ones(form: str, sniffed: None):
    known = ", ".join(FORMATS[form].kernels)
    assert known.startswith("default")
    for ask in (runtime_of, lambda path, kernels: open_classifier(path, kernels=kernels)):
        with pytest.raises(InputError, match=rf"kernels for m\.{form} must be one of {known}, got 'turbo'"):
            ask(Path(f"m.{form}"), "turbo")


@pytest.mark.parametrize(("form", "kernels"), KERNELS)
def test_a_runtime_is_named_with_version_and_unusual_kernels(form: str, kernels: str, sniffed: None):
    package = FORMATS[form].package
    if package != "torch":
        pytest.importorskip({"onnxruntime": "onnxruntime", "ai-edge-litert": "ai_edge_litert"}[package])
    name = runtime_of(Path(f"m.{form}"), kernels)
    assert name.split() == [package, version(package), *([] if kernels == "default" else [kernels])]


def test_a_runtime_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, sniffed: None):
    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], package="no-such-package"))
    with pytest.raises(InputError, match=r"m\.onnx needs the package no-such-package, which is missing"):
        runtime_of(Path("m.onnx"))


@pytest.mark.parametrize(("form", "kernels"), KERNELS)
def test_the_opener_is_handed_all_it_may_need(form: str, kernels: str, monkeypatch: pytest.MonkeyPatch, sniffed: None):
    asked = []

    class Model:
        takes = Takes(channels=3, layout="nhwc")

        def __call__(self, values: torch.Tensor) -> torch.Tensor:
            return values.flatten(1)

    def opened(path: Path, how: Opening) -> Any:
        asked.append((path, how))
        return Model()

    monkeypatch.setitem(FORMATS, form, replace(FORMATS[form], open=opened))
    path = Path(f"m.{form}")
    shown = open_classifier(path, Interface(range=(0, 255)), threads=3, kernels=kernels, allow_code=True)
    assert asked == [(path, Opening(3, kernels, True))]
    assert isinstance(shown, Shown)
    assert torch.equal(shown(torch.ones(1, 3, 1, 1)), torch.full((1, 3), 255.0))
    assert (shown.interface.layout, shown.name) == ("nhwc", f"the model in {path}")


def test_an_onnx_file_is_optimised_unless_asked_otherwise(monkeypatch: pytest.MonkeyPatch, sniffed: None):
    onnx_runtime = pytest.importorskip("dflare.models.onnx_runtime")
    asked = []
    monkeypatch.setattr(onnx_runtime, "OnnxClassifier", lambda *arguments: asked.append(arguments))
    for kernels in ("default", "unoptimized"):
        open_classifier(Path("m.onnx"), threads=2, kernels=kernels)
    assert asked == [(Path("m.onnx"), 2, True), (Path("m.onnx"), 2, False)]


def test_a_program_is_opened_only_where_that_is_allowed(tmp_path: Path):
    _script(tmp_path / "m.onnx")  # whatever its name
    with pytest.raises(InputError, match="--allow-code"):
        open_classifier(tmp_path / "m.onnx")
    assert open_classifier(tmp_path / "m.onnx", allow_code=True)(torch.zeros(2, 1, 2, 2)).shape == (2, 4)


def _script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is announced as deprecated
        torch.jit.save(torch.jit.trace(torch.nn.Flatten(), torch.zeros(2, 1, 2, 2)), path)
