from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from dflare.errors import InputError
from dflare.models.opening import FORMATS, open_classifier, runtime_of


@pytest.mark.parametrize("ending", FORMATS)
def test_a_missing_file_is_named(tmp_path, ending):
    with pytest.raises(InputError, match=rf"expected a model file at .*gone\{ending}, found none"):
        open_classifier(tmp_path / f"gone{ending}")


@pytest.mark.parametrize("ending", FORMATS)
def test_a_folder_is_no_model_file(tmp_path, ending):
    (tmp_path / f"folder{ending}").mkdir()
    with pytest.raises(InputError, match="found none"):
        open_classifier(tmp_path / f"folder{ending}")


@pytest.mark.parametrize("name", ["model.pkl", "model", "model.pt2.bak"])
def test_another_ending_is_answered_with_the_known_ones(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=rf"must end in \.pt2, \.onnx or \.tflite, got .*{name}"):
        open_classifier(tmp_path / name)


@pytest.mark.parametrize(
    ("ending", "words"),
    [(".pt2", "no zip archive"), (".onnx", "expected an ONNX model"), (".tflite", "cannot be opened by LiteRT")],
)
def test_each_format_looks_into_its_file(tmp_path: Path, ending, words):
    if ending == ".onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    (tmp_path / f"model{ending}").write_bytes(b"neither of them")
    if ending == ".tflite":
        pytest.importorskip("ai_edge_litert")
    with pytest.raises(InputError, match=words):
        open_classifier(tmp_path / f"model{ending}")


KERNELS = [(ending, name) for ending, form in FORMATS.items() for name in form.kernels]


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_has_default_kernels_and_lists_them_against_unknown_ones(tmp_path, ending):
    known = ", ".join(FORMATS[ending].kernels)
    assert known.startswith("default")
    for ask in (runtime_of, lambda path, kernels: open_classifier(path, kernels=kernels)):
        with pytest.raises(InputError, match=rf"kernels for .*m\{ending} must be one of {known}, got 'turbo'"):
            ask(tmp_path / f"m{ending}", "turbo")


@pytest.mark.parametrize(("ending", "kernels"), KERNELS)
def test_a_runtime_is_named_with_version_and_unusual_kernels(ending, kernels):
    package = FORMATS[ending].package
    if ending != ".pt2":
        pytest.importorskip({".onnx": "onnxruntime", ".tflite": "ai_edge_litert"}[ending])
    name = runtime_of(Path(f"m{ending}"), kernels)
    assert name.split() == [package, version(package), *([] if kernels == "default" else [kernels])]


def test_a_runtime_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(FORMATS, ".onnx", replace(FORMATS[".onnx"], package="no-such-package"))
    with pytest.raises(InputError, match=r"m\.onnx needs the package no-such-package, which is missing"):
        runtime_of(Path("m.onnx"))


def test_the_opener_is_handed_threads_and_kernels(tmp_path, monkeypatch):
    asked = []
    for ending, form in FORMATS.items():
        monkeypatch.setitem(FORMATS, ending, replace(form, open=lambda *arguments: asked.append(arguments)))
    for ending, kernels in KERNELS:
        path = tmp_path / f"m{ending}"
        path.touch()
        open_classifier(path, threads=3, kernels=kernels)
        assert asked.pop() == (path, 3, kernels)


def test_an_onnx_file_is_optimised_unless_asked_otherwise(tmp_path, monkeypatch):
    onnx_runtime = pytest.importorskip("dflare.models.onnx_runtime")
    monkeypatch.setattr(onnx_runtime, "OnnxClassifier", lambda *arguments: arguments)
    path = tmp_path / "m.onnx"
    path.touch()
    assert open_classifier(path, threads=2) == (path, 2, True)
    assert open_classifier(path, threads=2, kernels="unoptimized") == (path, 2, False)
