"""The benchmark of output repairs: its table, its memory, and what it refuses."""

import json
from pathlib import Path

import pytest

import output_repair
import output_rows
from pairs import bench_folder
from repair.outputs.recipes import OUTPUT_RECIPES

MODELS = bench_folder() / "models" / "mnist_lenet-5"


def row(recipe: str = output_repair.CHECKED, after: float = 0.01) -> dict:
    """A row that nobody measured."""
    figure = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}
    shares = ("efficacy", "generalization", "placebo", "gain", "other", "other_placebo", "broken", "fixed", "net")
    return {
        "pair": output_rows.NAMES[0],
        "recipe": recipe,
        "parts": OUTPUT_RECIPES[recipe].parts(),
        "scale": dict(vars(output_rows.QUICK)),
        **dict.fromkeys((*shares, "broken_placebo", "probe_placebo"), figure),
        "probe_before": {**figure, "value": 0.02},
        "probe_after": {**figure, "value": after},
        "triggers": 9,
        "kind": "shift",
        "bytes_model": 12000,
        "bytes_head": 1400,
        "bytes_onnx": 1200,
        "microseconds_model": 30.4,
        "microseconds": 50.9,
        "seconds": 1.5,
    }


def test_a_line_has_a_cell_for_every_heading():
    cells = output_repair.line(row()).strip("| ").split(" | ")
    assert len(cells) == len(output_repair.HEADINGS)
    assert cells[8] == "2.00 → 1.00"
    assert cells[10:13] == ["12,000 + 1,400", "1,200", "30 + 20"]


@pytest.mark.parametrize(("after", "code"), [(0.01, 0), (0.03, 1)])
def test_known_rows_are_not_measured_again_and_decide_the_check(
    after: float, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"rows": [row(after=after), row("output-tree")]}))
    arguments = ["--quick", "--recipes", output_repair.CHECKED, "--json", str(path), "--check"]
    assert output_repair.main(arguments) == code
    assert ("more harm than good" in capsys.readouterr().err) == bool(code)
    assert [one["recipe"] for one in json.loads(path.read_text())["rows"]] == [output_repair.CHECKED, "output-tree"]


@pytest.mark.parametrize(("flag", "word"), [("--pairs", "resnet"), ("--recipes", "imitation")])
def test_unknown_names_are_refused(flag: str, word: str, capsys: pytest.CaptureFixture[str]):
    assert output_repair.main([flag, word]) == 2
    assert f"{flag} must be some of " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not MODELS.is_dir(), reason=f"needs the models in {MODELS} (set DFLARE_BENCH)")
def test_a_head_and_its_placebo_are_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(output_rows, "TIMED", 10)
    scale = output_rows.Scale(learn=20, judge=20, probe=200, clean=200)
    found = output_rows.measure("mnist_lenet-5-distilled", "output-tree", OUTPUT_RECIPES["output-tree"], scale)
    assert found.generalization.n == found.placebo.n == found.gain.n > 0
    assert found.gain.value == pytest.approx(found.generalization.value - found.placebo.value)
    assert found.probe_before.n == 200
    assert found.bytes_head > 0
