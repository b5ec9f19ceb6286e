"""The ablation's table, its memory, and what it refuses."""

import json
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import pytest

import recipe_rows
import recipes
from pairs import bench_folder
from repair.proof.metrics import plain
from repair.recipes import RECIPES

MODELS = bench_folder() / "models" / "mnist_lenet-5"


def row(recipe: str = "imitation", low: float = 0.1) -> dict:
    """A row that nobody measured."""
    figure = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}
    return {
        "pair": recipes.DISTILLED,
        "recipe": recipe,
        "parts": RECIPES[recipe].parts(),
        "scale": plain(asdict(recipes.QUICK)),
        **dict.fromkeys(("efficacy", "generalization", "placebo"), figure),
        "gain": {"value": 0.2, "low": low, "high": 0.3, "n": 100},
        **dict.fromkeys(("clean_before", "clean_after", "clean_placebo", "broken"), 0.98765),
        "triggers": 100,
        "seconds": 1.5,
    }


def test_a_line_has_a_cell_for_every_heading():
    cells = recipes.line(row()).strip("| ").split(" | ")
    assert len(cells) == len(recipes.HEADINGS)
    assert cells[0] == "`imitation`"
    assert cells[4] == "+20.0 (+10.0 … +30.0)"
    assert cells[5] == "98.77 → 98.77"


@pytest.mark.parametrize(("low", "code"), [(0.1, 0), (-0.01, 1)])
def test_known_rows_are_not_measured_again_and_decide_the_check(
    low: float, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"rows": [row(low=low), row("margin")]}))
    assert recipes.main(["--quick", "--recipes", "imitation", "--json", str(path), "--check"]) == code
    assert ("short: imitation" in capsys.readouterr().err) == bool(code)
    assert [one["recipe"] for one in json.loads(path.read_text())["rows"]] == ["imitation", "margin"]


def test_rows_of_other_settings_do_not_count():
    options = Namespace(quick=True, seeds=1, steps=1, pairs="no-such-pair", recipes=None)
    with pytest.raises(
        recipes.InputError, match=r"--pairs must be some of mnist_lenet-5-distilled, .*got 'no-such-pair'"
    ):
        list(recipes.measured(options, [row()]))


@pytest.mark.slow
@pytest.mark.skipif(not MODELS.is_dir(), reason=f"needs the models in {MODELS} (set DFLARE_BENCH)")
def test_a_repair_and_its_placebo_are_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recipe_rows, "REPLAYED", 1000)
    scale = recipe_rows.Scale(seeds=1, learn=20, judge=20, steps=3)
    found = recipe_rows.measure(recipes.DISTILLED, "last", RECIPES["last"], scale)
    assert found.generalization.n == found.placebo.n == found.gain.n > 0
    assert found.gain.value == pytest.approx(found.generalization.value - found.placebo.value)
    assert 0.9 < found.clean_before < 1
