"""The comparison of all strategies: what its rows run, that known rows are not repeated, and what its table says."""

import json

import pytest

import methods
from methods import STRATEGIES, lines, main, row_of
from repair.outputs.recipes import recipe_parts
from repair.search_based.recipes import SEARCH_RECIPES


def figure(value):
    return {"value": value, "low": value, "high": value, "n": 100}


def trial(generalization):
    found = {"generalization": figure(generalization), "generalization_other": None, "drawdown": figure(0.002)}
    found |= {"fixed": figure(0.01), "probe_before": figure(0.04), "probe_after": figure(0.02)}
    return found | {"queries_ratio": figure(1.5), "accuracy_before": figure(0.9), "accuracy_after": figure(0.92)}


def measured(row):
    figures = {"repair": trial(0.6), "placebo": trial(0.2), "noop": trial(0), "cost": {"seconds": 7.0}}
    return {**row.identity, **figures, "words": "It does.", "model": row.model, "file": row.file}


@pytest.fixture
def row():
    return row_of("mnist_lenet-5", "distilled.pt2", "arachne", 0, STRATEGIES["arachne"])


def test_every_method_of_the_literature_is_a_strategy_and_every_recipe_is_known():
    assert set(SEARCH_RECIPES) <= set(STRATEGIES)
    for name in STRATEGIES:
        for file in methods.FILES:
            made = row_of("mnist_lenet-5", file, name, 0, STRATEGIES[name])
            assert recipe_parts(made.settings["repair.recipe"])


def test_strategies_of_a_pair_have_folders_of_their_own_and_search_alike(row):
    rows = [row_of("mnist_lenet-5", "int8.pt2", name, 0, STRATEGIES[name]) for name in STRATEGIES]
    assert len({made.pair for made in rows}) == len(STRATEGIES)
    searches = [{key: made.settings[key] for key in made.settings if key.startswith("search.")} for made in rows]
    assert all(search == searches[0] for search in searches)


def test_the_table_has_the_no_op_and_every_strategy(row):
    found = lines([measured(row)])
    assert found[1] == "mnist_lenet-5, distilled.pt2, seed 0"
    assert found[-2].startswith("| `no-op` | 0.0 | – |")
    assert found[-1] == "| `arachne` | 60.0 | 20.0 | – | 0.50 | 1.50 | 0.20 | 1.00 | 2.00 | 7.0 |"


def test_known_rows_are_not_measured_again_and_others_are_kept(row, tmp_path, monkeypatch, capsys):
    other = measured(row_of("mnist_lenet-5", "pruned.pt2", "care", 0, STRATEGIES["care"]))
    (tmp_path / "rows.json").write_text(json.dumps({"rows": [measured(row), other]}))
    asked = []
    monkeypatch.setattr(methods, "run", lambda row, folder: asked.append(row.kind) or measured(row))
    arguments = ["--pairs", "mnist_lenet-5-distilled-pt2", "--strategies", "arachne,birdnn"]
    assert main([*arguments, "--json", str(tmp_path / "rows.json")]) == 0
    assert asked == ["birdnn"]
    assert len(json.loads((tmp_path / "rows.json").read_text())["rows"]) == 3
    assert "| `birdnn` |" in capsys.readouterr().out


@pytest.mark.parametrize(("flag", "known"), [("--pairs", "mnist_lenet-5-distilled-pt2"), ("--strategies", "arachne")])
def test_an_unknown_name_is_refused_with_the_known_ones(flag, known, capsys):
    assert main([flag, "nothing"]) == 2
    assert f"{flag} must be some of" in (said := capsys.readouterr().err)
    assert known in said


def test_a_file_with_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "rows.json").write_text("[]")
    assert main(["--json", str(tmp_path / "rows.json")]) == 2
    assert "expected rows of this benchmark in" in capsys.readouterr().err


def test_one_command_compares_on_acas_xu_too_and_a_part_does_not(row, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(methods, "measured", lambda options, rows: [])
    monkeypatch.setattr("acasxu.main", lambda arguments: asked.append(arguments) or 0)
    assert methods.main(["--json", str(tmp_path / "rows.json")]) == 0
    assert asked == [["--methods", "all", f"--json={tmp_path / 'rows-acasxu.json'}"]]
    assert methods.main(["--strategies", "arachne"]) == 0
    assert len(asked) == 1
    assert "ACAS Xu" in capsys.readouterr().out
