"""Robustness repair of images on the command line: what is repaired, stated, kept and refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from PIL import Image

from dflare.models.opening import open_classifier
from experiments.main import main
from repair.properties.vnnlib import read_vnnlib
from tests.repair.properties.small_classifier import save_classifier

BRIEF = (
    "robustness.radius=0.01", "robustness.epsilon=0.05", "robustness.delta=0.05", "robustness.steps=100",
    "robustness.images=8", "split.train=0.4", "split.validate=0.2", "split.judge=0.4", "threads=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of 4 x 4 pixels, and `photos` beside it: 90 images in folders named by what it says of them."""
    path = save_classifier(tmp_path_factory.mktemp("small") / "small.onnx", seed=15)
    pixels = np.random.default_rng(0).integers(0, 256, (90, 4, 4), np.uint8)
    said = open_classifier(path, threads=1)(torch.from_numpy(pixels)[:, None].float() / 255).argmax(-1).tolist()
    for index, (image, answer) in enumerate(zip(pixels, said, strict=True)):
        folder = path.parent / "photos" / f"class-{answer}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    assert sorted(set(said)) == [0, 1]  # so that labels, counted in the order of folders, are what the model says
    return path


def call(model: Path, run: Path, *more: str) -> list[str]:
    """The command line on the photos beside the model."""
    photos = model.parent / "photos"
    return [
        "properties", *BRIEF, f"model={model}", "data.name=imagefolder", f"data.root={photos}", f"run_dir={run}", *more
    ]  # fmt: skip


def read(run: Path) -> dict:
    return json.loads((run / "report.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_attacked_balls_are_repaired_stated_and_not_done_again(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    code = main(call(model, run, f"robustness.export={tmp_path / 'out'}", "robustness.verifier_balls=1"))
    report = read(run)
    before, after = report["before"], report["after"]
    assert code == 0
    assert before["statement"]["bound"] > 0.05 >= after["statement"]["bound"]
    assert before["attacked"]["value"] > after["attacked"]["value"]
    assert before["attacked"]["n"] == before["misbehaving"] > 2
    assert before["right"]["value"] == 1.0  # the labels are its own answers
    assert before["broken"]["value"] == 0
    assert after["broken"]["value"] == pytest.approx(1 - after["right"]["value"])
    assert "balls of radius 0.01, with confidence 95 %" in capsys.readouterr().out.splitlines()[0]
    assert (run / "report.md").read_text(encoding="utf-8").splitlines()[2].startswith("**the bound of 0.05")
    assert read_vnnlib(tmp_path / "out/after/robustness-0.vnnlib").outputs == 3
    kept = {path: path.stat().st_mtime_ns for path in [*run.glob("round-00/*"), run / "repaired.onnx"]}
    assert len(kept) == 6
    assert main(call(model, run)) == code
    assert main(["report", str(run)]) == code
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    again = tmp_path / "again"
    assert main(call(model, again)) == code
    assert (again / "repaired.onnx").read_bytes() == (run / "repaired.onnx").read_bytes()
    assert (read(again)["before"], read(again)["after"]) == (before, after)
    assert main(call(model, run, "seed=1")) == 2


def test_without_a_repair_only_the_statement_is_made(model: Path, tmp_path: Path):
    original = save_classifier(tmp_path / "original.onnx", 15, (1, 2, 0))  # which the model never agrees with
    arguments = [one for one in call(model, tmp_path / "run") if not one.startswith("model=")]
    pair = [f"pair.original={original}", f"pair.compressed={model}", "robustness.method=none"]
    assert main([*arguments, *pair]) == 1
    report = read(tmp_path / "run")
    assert report["after"] is None
    assert (report["before"]["centres"]["value"], report["before"]["right"]["value"]) == (0, 0)
    assert report["before"]["statement"]["rate"] > 0.9
    assert "does NOT hold for the model as it is" in (tmp_path / "run/report.md").read_text(encoding="utf-8")


def test_where_nothing_misbehaves_there_is_nothing_to_repair(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(call(model, tmp_path / "run", "robustness.radius=0.000001")) == 0
    assert read(tmp_path / "run")["after"] is None
    assert "No image misbehaves among those looked at" in capsys.readouterr().out


@pytest.mark.slow
def test_a_verifier_decides_single_balls_before_and_after(model: Path, tmp_path: Path):
    pytest.importorskip("highspy")
    main(call(model, tmp_path / "run", "robustness.verifier=highs", "robustness.verifier_balls=2"))
    verdicts = read(tmp_path / "run")["verification"]
    assert [one["outcome"] for one in verdicts["before"]["verdicts"]] == ["falsified"] * 2
    assert len(verdicts["after"]["verdicts"]) == 2


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("robustness.image=5", "did you mean robustness.images"),
        ("robustness.radius=0", "robustness.radius must be in [1e-06, 1], got 0"),
        ("robustness.method=magic", "robustness.method must be one of hinge, birdnn-retrain, plain, none, got 'magic'"),
        ("robustness.delta=1", "robustness.delta must lie strictly between 0 and 1, got 1"),
        ("robustness.fresh=3", "takes at least 59 fresh draws without a single violation, but robustness.fresh is 3"),
        ("pair.original=a.onnx", "expected either model or pair.original and pair.compressed, got both"),
        ("model=null", "expected the model to repair, model=file.onnx"),
        ("model=nowhere.onnx", "nowhere.onnx, found none"),
        ("model=my:function", "runs no code of a model, got my:function"),
        ("data.root=nowhere", "nowhere"),
        ("data.name=null data.root=null", "expected images: data.root"),
    ],
)
def test_bad_input_is_one_sentence(
    more: str, words: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(call(model, tmp_path / "run", *more.split())) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_images_without_labels_need_an_original(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = model.parent / "photos/class-0"
    assert main(call(model, tmp_path / "run", "data.name=images", f"data.root={folder}")) == 2
    assert "give pair.original and pair.compressed" in capsys.readouterr().err
