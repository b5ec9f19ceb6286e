"""The robustness benchmark: its table, its memory, its verdicts, its networks, and a row on few balls."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import robustness
import robustness_cases
import robustness_rows
from dflare.errors import InputError
from dflare.models.opening import open_classifier
from pairs import bench_folder
from repair.opening import open_trainable
from repair.properties.networks import open_network
from robustness_cases import Sizes
from robustness_methods import METHODS, applies
from robustness_networks import dense_file

DATA = bench_folder() / "data" / "MNIST"


def row(**after: float) -> dict:
    """A row that nobody measured; `after` are figures of the repaired model."""
    statement = {"samples": 6905, "violations": 0, "delta": 1e-3, "bound": 1e-3, "rate": 0.0}
    figures = {
        "centres": 1.0,
        "attacked": 0.1,
        "unseen": 0.5,
        "calm": 0.01,
        "pooled": statement,
        "worst": statement,
        "accuracy": 0.97,
    }
    return {
        "model": "lenet-5-int8",
        "radius": 0.02,
        "method": "hinge",
        **asdict(Sizes()),
        "seed": 0,
        "bad": 50,
        "unseen": 40,
        "calm": 200,
        "finding_seconds": 9.0,
        "seconds": 12.0,
        "cpu_seconds": 12.0,
        "before": figures | {"centres": 0.4, "attacked": 1.0},
        "after": figures | after,
        "broken": 0.001,
        "fixed": 0.002,
    }


def test_a_line_has_a_cell_for_every_heading():
    cells = robustness.line(row(accuracy=0.968)).strip("| ").split(" | ")
    assert len(cells) == len(robustness.HEADINGS)
    assert cells[:5] == ["lenet-5-int8", "0.02", "`hinge`", "50, 40, 200", "40.0 → 100.0"]
    assert cells[10] == "97.00 → 96.80"


@pytest.mark.parametrize(
    ("after", "missed"),
    [
        ({}, []),
        ({"centres": 0.98}, ["every centre right wanted, measured 98.0 %"]),
        ({"pooled": {"bound": 0.002}, "accuracy": 0.964}, ["pooled bound <= 0.001", "points of accuracy lost"]),
    ],
)
def test_figures_that_a_row_misses_are_named(after: dict, missed: list[str]):
    found = robustness.misses(row(**after))
    assert len(found) == len(missed)
    assert all(name in short for name, short in zip(missed, found, strict=True))


@pytest.mark.parametrize(("centres", "code"), [(1.0, 0), (0.9, 1)])
def test_known_rows_are_not_measured_again_and_decide_the_check(
    centres: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(robustness, "measure", None)
    path = tmp_path / "rows.json"
    other = row() | {"seed": 1}
    path.write_text(json.dumps({"rows": [other, row(centres=centres)]}))
    arguments = ["--models", "lenet-5-int8", "--radii", "0.02", "--json", str(path), "--check"]
    assert robustness.main(arguments) == code
    assert [one["seed"] for one in json.loads(path.read_text())["rows"]] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "lenet-6"], "--models must be some of dense-50x2-relu"),
        (["--methods", "magic"], "--methods must be some of hinge, plain, birdnn-retrain"),
        (["--radii", "0.02,2"], "--radii must be numbers in (0, 1] with commas between them, got '0.02,2'"),
        (["--balls", "-1"], "--balls must be at least 1, got -1"),
    ],
)
def test_what_cannot_be_asked_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert robustness.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_missing_models_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(robustness_cases, "bench_folder", lambda: tmp_path)
    with pytest.raises(InputError, match="found none; set DFLARE_BENCH"):
        robustness_cases.paths("simplecnn-int8", torch.empty(0), torch.empty(0))


def test_fine_tuning_is_for_fully_connected_networks():
    assert applies("birdnn-finetune", "dense-50x2-tanh")
    assert not applies("birdnn-finetune", "lenet-5-original")
    assert applies("birdnn-retrain", "lenet-5-int8")


def test_a_dense_network_takes_images_and_is_kept(tmp_path: Path):
    images = torch.randint(256, (20, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    path = dense_file("dense-50x2-tanh", images, torch.arange(20) % 10, tmp_path, steps=2)
    shown = images.float() / 255
    scores = open_classifier(path, threads=1)(shown)
    opened = open_trainable(path)
    with torch.no_grad():
        assert torch.allclose(opened.module(shown), scores, atol=1e-5)
        assert torch.allclose(open_network(path).network(shown.flatten(1)), scores, atol=1e-5)
    written = path.stat().st_mtime_ns
    assert dense_file("dense-50x2-tanh", images, torch.arange(20) % 10, tmp_path, steps=2) == path
    assert path.stat().st_mtime_ns == written


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the images in {DATA} (set DFLARE_BENCH)")
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_measured_on_a_row(method: str):
    sizes = Sizes(balls=10, candidates=200, clean=300, steps=60)
    found = robustness_rows.measure("dense-50x2-relu", 0.02, method, sizes)
    before, after = found["before"], found["after"]
    assert (found["bad"], found["unseen"] > 0, found["calm"] > 0) == (10, True, True)
    assert before["attacked"] > 0.8
    if method == "no-op":
        assert before == after
    if method == "hinge":
        assert after["centres"] >= before["centres"]
        assert after["attacked"] < before["attacked"]
        assert after["accuracy"] > before["accuracy"] - 0.02
