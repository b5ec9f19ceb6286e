"""`dflare estimate`: the figures of its file, which images it is about, and that nothing is asked twice."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dflare.classifiers import Outputs
from experiments import estimate_answers
from experiments.estimate_answers import Comparison, Images, original_scores
from experiments.files import read_json

Call = Callable[..., Any]

QUESTIONS = {"estimate__queries": 60}


def comparison(tmp_path: Path, asked: list[int]) -> Comparison:
    """Ten grey images; the original says "bright" above 100, the compressed model above 140, and equally at 200."""
    grey = torch.arange(0, 250, 25, dtype=torch.uint8).view(-1, 1, 1, 1)

    def said(levels: torch.Tensor, border: float) -> torch.Tensor:
        return torch.stack([torch.full_like(levels, border), torch.where(levels == 200, border, levels)], dim=-1)

    def compressed(pixels: torch.Tensor) -> torch.Tensor:
        levels = (pixels * 255).round().flatten()
        asked.extend(int(level) // 25 for level in levels)
        return said(levels, 140)

    scores = torch.stack([torch.full((10,), 100.0), grey.flatten().float()], dim=-1)
    return Comparison(compressed, Images.of(grey, "ten"), scores, tmp_path / "answers.jsonl")


def test_deviations_and_ties_are_told_apart_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    asked: list[int] = []
    ask = comparison(tmp_path, asked)
    assert ask(np.array([9, 5, 0])).tolist() == [[False, False], [True, False], [False, False]]
    assert ask(np.array([8, 4, 5])).tolist() == [[False, True], [False, False], [True, False]]  # 100 ties on one side
    assert asked == [9, 5, 0, 8, 4]


def test_a_torn_line_of_a_killed_process_is_asked_again(tmp_path: Path) -> None:
    asked: list[int] = []
    ask = comparison(tmp_path, asked)
    ask(np.array([1, 2]))
    ask.path.write_bytes(ask.path.read_bytes() + b'{"images": [3], "devi')
    assert ask(np.array([1, 3])).tolist() == [[False, False], [False, False]]
    assert asked == [1, 2, 3]
    assert set(ask.known()) == {1, 2, 3}


def test_the_original_is_asked_once_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate_answers, "CHUNK", 4)
    counted: list[int] = []

    def original(pixels: torch.Tensor) -> torch.Tensor:
        counted.append(len(pixels))
        return torch.stack([pixels.flatten(), 1 - pixels.flatten()], dim=-1)

    images = Images.of(torch.arange(10, dtype=torch.uint8).view(-1, 1, 1, 1), "ten")
    first = original_scores(original, images, tmp_path)
    (tmp_path / f"{4:09d}.npy").unlink()
    assert (original_scores(original, images, tmp_path) == first).all()
    assert counted == [4, 4, 2, 4]


@pytest.mark.slow
def test_own_images_are_all_asked_about_before_any_repair_and_again_for_nothing(
    toys: Any, tmp_path: Path, dflare: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    answer = dflare("estimate", *toys.settings(run, **QUESTIONS))
    assert answer.code == 0, answer.err
    found = read_json(run / "estimate.json")
    assert (found["images"]["where"], found["images"]["count"]) == ("all images of the data", 120)
    assert set(found) == {"schema_version", "confidence", "queries", "seed", "images", "models"}
    (model,) = found["models"]
    assert (model["name"], model["round"], model["change"], model["asked"]) == ("handed in", None, None, 60)
    assert model["rate"]["low"] <= model["rate"]["value"] <= model["rate"]["high"]
    assert "handed in: " in answer.out
    assert "of 120 images deviate, 95 % interval" in answer.out
    monkeypatch.setattr(estimate_answers, "ask", lambda *_: pytest.fail("asked twice"))
    assert dflare("estimate", *toys.settings(run, **QUESTIONS)).code == 0
    assert read_json(run / "estimate.json") == found


@pytest.mark.slow
def test_an_interrupted_estimate_goes_on_where_it_was(
    toys: Any, tmp_path: Path, dflare: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, whole = tmp_path / "broken", tmp_path / "whole"

    class Stop:
        def __init__(self, *_: Any) -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(estimate_answers, "Outputs", Stop)
        assert dflare("estimate", *toys.settings(broken, **QUESTIONS)).code == 130
    assert not (broken / "estimate.json").exists()
    for folder in (broken, whole):
        assert dflare("estimate", *toys.settings(folder, **QUESTIONS)).code == 0
    assert read_json(broken / "estimate.json") == read_json(whole / "estimate.json")
    assert estimate_answers.Outputs is Outputs


def test_a_run_s_rounds_are_judged_on_images_that_no_repair_has_seen(
    toys: Any, finished: Path, tmp_path: Path, dflare: Call
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    settings = toys.settings(run, loop__rounds=2, verify__runtimes="[default]")
    assert dflare("estimate", *settings).code == 0
    found = read_json(run / "estimate.json")
    assert found["images"]["where"] == "the judge side of the data"
    assert [model["name"] for model in found["models"]] == ["handed in", "round 0", "round 1"]
    assert found["models"][0]["asked"] == found["images"]["count"] < 40  # a census: fewer images than questions
    rounds = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    for model, finished_round in zip(found["models"][1:], rounds, strict=True):
        assert model["rolled_back"] == finished_round["rolled_back"]
        assert model["change"]["value"] == pytest.approx(model["rate"]["value"] - found["models"][0]["rate"]["value"])
    fixed = lowered(found["models"])
    assert fixed == pytest.approx(rounds[0]["repair"]["fixed"]["value"] - rounds[0]["repair"]["drawdown"]["value"])
    assert dflare("report", str(run)).code in (0, 1)  # the estimate's files are in nobody's way


def lowered(models: list[dict[str, Any]]) -> float:
    """By how much the first round lowers the census's rate: what is fixed less what is broken."""
    return float(models[0]["rate"]["value"] - models[1]["rate"]["value"])


def test_images_of_another_folder_are_taken_as_they_lie(toys: Any, tmp_path: Path, dflare: Call) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, path in enumerate(sorted((toys.images / "0-red").glob("*.png"))[:20]):
        for copy in range(3):  # duplicates count as often as they occur
            shutil.copy(path, photos / f"{number}-{copy}.png")
    run = tmp_path / "run"
    answer = dflare("estimate", *toys.settings(run, estimate__root=photos, **QUESTIONS))
    assert answer.code == 0, answer.err
    found = read_json(run / "estimate.json")
    assert (found["images"]["where"], found["images"]["count"]) == ("all images of photos (estimate.root)", 60)
    assert "every one was asked" in answer.out


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("estimate__queries", 39, "estimate.queries must be in [40, "),
        ("estimate__confidence", 95, "estimate.confidence must be in [0.5, 0.9999], got 95"),
        ("estimate__root", "nowhere", "expected a folder of images at nowhere"),
        ("estimate__query", 400, "unknown key estimate.query in the argument estimate.query=400; did you mean"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(
    toys: Any, tmp_path: Path, dflare: Call, key: str, value: Any, words: str
) -> None:
    answer = dflare("estimate", *toys.settings(tmp_path / "run", **{key: value}))
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err
    assert answer.err.count("\n") == 1
