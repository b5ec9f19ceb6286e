"""Searches in a run: a repair, its placebo that moves the same weights, a later round's history."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.files import read_json


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["neurecover", "birdnn"])
def test_a_search_is_a_recipe_of_the_loop_with_placebo_and_no_op(
    recipe: str, toys: Any, dflare: Callable[..., Any], tmp_path: Path
):
    settings = toys.settings(tmp_path / "run", repair__recipe=recipe, repair__steps=3, loop__rounds=2)
    answer = dflare("loop", *settings)
    assert answer.code in (0, 1), answer.err
    for number in (0, 1):
        folder = tmp_path / "run" / f"round-0{number}"
        repair, placebo, noop = (read_json(folder / name / "training.json") for name in ("model", "placebo", "noop"))
        assert repair["recipe"]["method"] == recipe
        assert repair["steps"] <= 3
        assert placebo["steps"] == repair["steps"]
        assert noop["steps"] == 0
        if repair["steps"]:
            assert placebo["free"] == repair["free"]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["rounds"][0]["noop"]["repair"]["generalization"]["value"] == 0


def test_a_misspelt_search_is_told_its_name(toys: Any, dflare: Callable[..., Any], tmp_path: Path):
    answer = dflare("loop", *toys.settings(tmp_path / "run", repair__recipe="neurecovr"))
    assert (answer.code, "did you mean neurecover?" in answer.err) == (2, True)
