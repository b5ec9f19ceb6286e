"""`layers.json` of a round: written once, in the report, and of images that no compressed model chose."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.files import read_json
from experiments.localising import boundary
from experiments.report_layers import layer_section
from experiments.report_schema import conform


def grey(images: Tensor) -> Tensor:
    """Class 1 above 100/255, class 0 below, scores (n, 2)."""
    mean = images.flatten(1).mean(-1)
    return torch.stack([torch.full_like(mean, 100 / 255), mean], -1)


def test_boundary_images_are_the_last_of_their_seed_s_class() -> None:
    seeds = torch.tensor([0, 40, 200, 250], dtype=torch.uint8).view(4, 1, 1, 1)
    assert boundary(grey, seeds).flatten().tolist() == [100, 100, 101, 101]  # 100 is a tie, the first class wins


def test_seeds_of_one_class_have_no_boundary() -> None:
    assert len(boundary(grey, torch.zeros(3, 1, 1, 1, dtype=torch.uint8))) == 0


@pytest.fixture(scope="module")
def layers(finished: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(finished / "round-00" / "layers.json")
    return found


def test_a_run_says_which_layers_answer_for_its_triggers(finished: Path, layers: dict[str, Any]) -> None:
    assert layers == conform(layers, "Layers", "layers.json")
    assert layers["method"] == "intervention"
    assert sum(layer["share"]["value"] for layer in layers["layers"]) == pytest.approx(1)
    report = read_json(finished / "report.json")
    assert report["rounds"][0]["layers"] == layers
    assert report["headline"]["layers"] is None
    assert "## Which layers" in (finished / "report.md").read_text(encoding="utf-8")


def test_the_section_shows_the_first_layers_and_escapes_names(layers: dict[str, Any]) -> None:
    named = json.loads(json.dumps(layers))
    named["evidence"], named["layers"][0]["name"] = True, "<b>|"
    text = "\n".join(layer_section([{"round": 0, "layers": named}]))
    assert r"\<b\>\|" in text
    assert "intervals are over triggers" in text


def test_rounds_that_were_not_looked_into_have_no_section() -> None:
    assert layer_section([{"round": 0, "layers": None}]) == []


@pytest.mark.slow
def test_without_a_method_no_layers_are_written(dflare: Any, toys: Any, tmp_path: Path) -> None:
    settings = toys.settings(tmp_path / "run", localise__method=None)
    assert dflare("search", *settings).code == 0
    assert dflare("repair", *settings).code == 0
    assert not (tmp_path / "run" / "round-00" / "layers.json").exists()


def test_an_unknown_method_is_refused_with_the_right_ones(dflare: Any, toys: Any, tmp_path: Path) -> None:
    answer = dflare("loop", *toys.settings(tmp_path / "run", localise__method="guess"))
    assert answer.code == 2
    assert "localise.method must be one of null, intervention, gradient, activation, pareto" in answer.err
