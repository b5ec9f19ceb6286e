"""Heads in files: what comes back, what is refused, and ONNX models that answer alike."""

import io
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from dflare.errors import InputError
from repair.outputs.fitting import LEARNERS, fit_head
from repair.outputs.head import IDENTITY, Head
from repair.outputs.head_file import head_bytes, load_head, save_head
from repair.outputs.repaired import Corrected, corrected

CLASSES = 4


def random_scores(seed: int, count: int = 300) -> np.ndarray:
    """Scores like a network's, (n, classes) float32."""
    return (np.random.default_rng(seed).normal(size=(count, CLASSES)) * 3).astype(np.float32)


@cache
def learnt(kind: str) -> Head:
    """A head of that kind, from a model that confuses classes."""
    scores = random_scores(0)
    if kind == "identity":
        return IDENTITY
    return fit_head(kind, scores[:, [1, 0, 3, 2]], np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)).head


KINDS = ("identity", *LEARNERS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_comes_back_and_its_file_is_the_same_each_time(kind: str, tmp_path: Path):
    head, path = learnt(kind), tmp_path / "head.npz"
    save_head(head, path)
    assert path.read_bytes() == head_bytes(head)
    assert [one.name for one in tmp_path.iterdir()] == ["head.npz"]
    other = random_scores(1)
    assert load_head(path, CLASSES)(other).tobytes() == head(other).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_byte_is_told(kind: str, tmp_path: Path):
    path = tmp_path / "head.npz"
    save_head(learnt(kind), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="head"):
        load_head(path)


def rewritten(path: Path, **changes: np.ndarray | None) -> None:
    """The file with some arrays replaced, added, or for None left out; whoever did it knew the format."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    kept = {name: array for name, array in (arrays | changes).items() if array is not None}
    np.savez(path, **kept)  # type: ignore[arg-type]


TAMPERED = {
    "other numbers": ({"bias": np.ones(CLASSES, np.float32)}, "arrays were changed"),
    "a missing array": ({"bias": None}, "arrays of the kind shift must be bias, mean, scale, weight"),
    "one too many": ({"code": np.zeros(1, np.float32)}, "got bias, code, mean"),
    "not a number": ({"bias": np.full(CLASSES, np.nan, np.float32)}, "bias must be finite"),
    "another type": ({"bias": np.zeros(CLASSES)}, "bias must be float32, got float64"),
    "another shape": ({"bias": np.zeros(CLASSES + 1, np.float32)}, r"bias must have the shape \(4,\)"),
    "another kind": ({"kind": np.array("tree")}, "arrays of the kind tree must be feature"),
    "no kind": ({"kind": np.array("forest")}, "its kind must be one of identity, linear"),
    "a scale of zero": ({"scale": np.zeros(CLASSES, np.float32)}, "scale must be above 0"),
    "another format": ({"format": np.array("something else")}, "found other arrays"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_file_is_refused(name: str, tmp_path: Path):
    changes, words = TAMPERED[name]
    path = tmp_path / "head.npz"
    save_head(learnt("shift"), path)
    rewritten(path, **changes)
    with pytest.raises(InputError, match=words):
        load_head(path)


TREES = {
    "a circle": ({"left": [0, 1, 2]}, "lead from each node to two further ones"),
    "beyond the end": ({"right": [7, 1, 2]}, "lead from each node to two further ones"),
    "backwards": ({"left": [1, 0, 2], "right": [2, 0, 2]}, "lead from each node to two further ones"),
    "no such class": ({"label": [0, 6, 2]}, r"label must be from 0 to 4, got 0 to 6"),
    "no such feature": ({"feature": [4, 0, 0]}, r"feature must be from 0 to 3, got 0 to 4"),
    "below zero": ({"feature": [-1, 0, 0]}, r"feature must be from 0 to 3, got -1 to 0"),
}


@pytest.mark.parametrize("name", TREES)
def test_a_tree_that_leads_nowhere_is_refused(name: str, tmp_path: Path):
    changes, words = TREES[name]
    whole = {"feature": [0, 0, 0], "left": [1, 1, 2], "right": [2, 1, 2], "label": [0, 1, 4]} | changes
    arrays = {key: np.array(value, np.int32) for key, value in whole.items()}
    head = Head("tree", arrays | {"threshold": np.zeros(3, np.float32)})
    path = tmp_path / "head.npz"
    path.write_bytes(head_bytes(head))  # without the check that `save_head` makes
    with pytest.raises(InputError, match=words):
        load_head(path, CLASSES)


def test_pickles_and_foreign_files_are_refused(tmp_path: Path):
    path = tmp_path / "head.npz"
    with pytest.raises(InputError, match="found none"):
        load_head(path)
    np.savez(path, kind=np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="without pickles"):
        load_head(path)
    path.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(InputError, match="without pickles"):
        load_head(path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("kind.txt", "tree")
    path.write_bytes(buffer.getvalue())
    with pytest.raises(InputError):
        load_head(path)


def test_a_head_that_could_not_be_read_back_is_not_written(tmp_path: Path):
    with pytest.raises(InputError, match="its kind must be one of"):
        save_head(Head("forest", {}), tmp_path / "head.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_answers_like_the_head(kind: str, tmp_path: Path):
    pytest.importorskip("onnxruntime")
    from repair.outputs.onnx_head import onnx_answers, write_checked

    head, scores = learnt(kind), random_scores(2, 5000)
    scores[::50, 1] = scores[::50].max(-1)  # ties
    scores[::70, 0] = -np.inf  # impossible
    write_checked(head, scores, tmp_path / "head.onnx")
    answers = onnx_answers(tmp_path / "head.onnx", scores)
    if head.kind in ("identity", "tree"):
        assert answers.tobytes() == head(scores).tobytes()
    else:
        np.testing.assert_allclose(answers, head(scores), rtol=1e-4, atol=1e-4)
        assert (answers.argmax(-1) == head(scores).argmax(-1)).all()


def test_an_onnx_head_that_answers_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("onnxruntime")
    from repair.outputs import onnx_head

    monkeypatch.setattr(onnx_head, "onnx_answers", lambda path, scores: -scores)
    with pytest.raises(InputError, match="ONNX Runtime gives other labels"):
        onnx_head.write_checked(learnt("shift"), random_scores(2), tmp_path / "head.onnx")


@pytest.mark.parametrize("kind", KINDS)
def test_a_corrected_classifier_answers_what_the_head_says(kind: str, tmp_path: Path):
    path, scores = tmp_path / "head.npz", random_scores(3, 20)
    save_head(learnt(kind), path)
    classifier = corrected(lambda images: images.flatten(1), path)
    answers = classifier(torch.from_numpy(scores.reshape(20, 1, 2, 2)))
    assert answers.numpy().tobytes() == learnt(kind)(scores).tobytes()
    alone = torch.cat([classifier(torch.from_numpy(one.reshape(1, 1, 2, 2))) for one in scores])
    torch.testing.assert_close(answers, alone)


def test_a_head_for_another_number_of_classes_is_refused_when_asked():
    classifier = Corrected(lambda images: images.flatten(1), learnt("shift"), "that head")
    with pytest.raises(InputError, match=r"in that head, but mean must have the shape \(9,\), got \(4,\)"):
        classifier(torch.zeros(2, 1, 3, 3))


def test_the_model_in_front_of_a_head_can_be_moved():
    network = torch.nn.Linear(4, 4)
    assert Corrected(network, IDENTITY).to(torch.device("cpu")) is None
    assert "says not how to move it" in str(Corrected(lambda images: images, IDENTITY).to(torch.device("cpu")))
