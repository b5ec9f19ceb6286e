from pathlib import Path

import pytest

from dflare.errors import InputError
from dflare.opening import FORMATS, open_classifier


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
    with pytest.raises(InputError, match=rf"must end in \.pt2 or \.onnx, got .*{name}"):
        open_classifier(tmp_path / name)


@pytest.mark.parametrize(("ending", "words"), [(".pt2", "no zip archive"), (".onnx", "expected an ONNX model")])
def test_each_format_looks_into_its_file(tmp_path: Path, ending, words):
    if ending == ".onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    (tmp_path / f"model{ending}").write_bytes(b"neither of them")
    with pytest.raises(InputError, match=words):
        open_classifier(tmp_path / f"model{ending}")
