"""The repair benchmark: what its rows run, how their reports are read, and what a table makes of them."""

import json

import pytest

import repairs
from repair_rows import BITS, DISTILLED, INT8, Row, figures
from repair_table import figures as reached
from repair_table import generalization, interval, lines, mean, over, probe


def figure(value):
    return {"value": value, "low": value, "high": value, "n": 100}


def trial(generalization, probe_after=0.02):
    repair = {"generalization": figure(generalization), "probe_before": figure(0.1), "probe_after": figure(probe_after)}
    repair |= {"drawdown": figure(0.001), "fixed": figure(0.003), "generalization_other": None, "steps": 7}
    accuracy = {"original": figure(0.99), "before": figure(0.95), "after": figure(0.97)}
    return {"search": {"queries_ratio": figure(2.5)}, "repair": repair, "accuracy": accuracy}


def row(pair, kind, seed, generalization, placebo=0.4):
    controls = {"placebo": trial(placebo), "cost": {"bytes_before": 100, "bytes_after": 105, "seconds": 9}}
    said = {"rolled_back": False, "beats_placebo": True, "beats_placebo_words": "It does."}
    return {"pair": pair, "kind": kind, "seed": seed, **figures({**trial(generalization), **controls, **said})}


def test_twelve_pairs_and_the_int8_ones_again_with_more_bits_are_measured():
    names = {(made.pair, made.kind) for made in repairs.rows(repairs.settings_of, {"mnist": 1, "cifar10": 1})}
    assert len(names) == 18
    assert sum(kind == INT8 for _, kind in names) == 6
    assert sum(kind == BITS for _, kind in names) == 6


def test_cifar_has_its_own_settings_and_seeds():
    made = repairs.rows(repairs.settings_of, {"mnist": 3, "cifar10": 1})
    assert {r.settings["probe.images"] for r in made if r.model.startswith("cifar")} == {"10000"}
    assert not any("probe.images" in r.settings for r in made if r.model.startswith("mnist"))
    assert {r.seed for r in made if r.model.startswith("mnist")} == {0, 1, 2}
    assert {r.seed for r in made if r.model.startswith("cifar")} == {0}


def test_a_mean_is_over_pairs_and_not_over_rows():
    rows = [row("a", INT8, 0, 0.2), row("a", INT8, 1, 0.4), row("b", INT8, 0, 0.9)]
    assert mean(rows, generalization) == pytest.approx(60)


def test_the_interval_over_seeds_is_that_of_students_t():
    rows = [row(pair, INT8, seed, share) for pair in "ab" for seed, share in enumerate((0.6, 0.7, 0.8))]
    assert interval(rows, generalization) == pytest.approx(4.303 * 10 / 3**0.5)
    assert interval([row("a", INT8, 0, 0.5)], generalization) is None


def test_a_control_that_was_not_run_leaves_its_figure_open_and_short():
    rows = [row("mnist-a", DISTILLED, 0, 0.9)]
    assert over("placebo")(rows[0]) == pytest.approx(50)
    assert over("eight_bit")(rows[0]) is None
    assert probe(rows[0]) == pytest.approx(0.2)
    verdicts = {f.name: f.verdict for f in reached(rows)}
    assert verdicts[f"{DISTILLED}: generalization"] == "ok"
    assert verdicts[f"{BITS}: over the 8-bit placebo"] == "not measured"


def test_a_figure_below_its_target_is_short():
    verdicts = {f.name: f.verdict for f in reached([row("mnist-a", DISTILLED, 0, 0.79)])}
    assert verdicts[f"{DISTILLED}: generalization"] == "short"
    assert verdicts[f"{DISTILLED}: drawdown, MNIST pairs"] == "ok"


def test_every_pair_has_a_line_and_every_column_a_mean():
    found = lines([row("a", DISTILLED, 0, 0.9), row("b", INT8, 0, 0.8)])
    assert [line.split("|")[1].strip() for line in found[2:]] == ["a", "**mean, distilled**", "b", "**mean, int8**"]


def test_rows_that_the_file_holds_are_not_run_again(tmp_path, monkeypatch, capsys):
    made = Row("mnist_lenet-5", "distilled.pt2", DISTILLED, 0, repairs.SETTINGS[DISTILLED])
    known = {**row(made.pair, DISTILLED, 0, 0.9), **made.identity}
    (tmp_path / "rows.json").write_text(json.dumps({"rows": [known]}))
    monkeypatch.setattr(repairs, "measure", lambda row, folder: pytest.fail("was run"))
    asked = ["--pairs", made.pair, "--seeds", "1", "--json", str(tmp_path / "rows.json")]
    assert repairs.main(asked) == 0
    assert repairs.main([*asked, "--check"]) == 1  # the other columns are not measured
    assert "90.0" in capsys.readouterr().out


def test_an_unknown_pair_is_refused_with_the_known_ones(capsys):
    assert repairs.main(["--pairs", "nothing"]) == 2
    assert "--pairs must be some of mnist_lenet-5-distilled-pt2" in capsys.readouterr().err


def test_a_file_with_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "rows.json").write_text("[]")
    assert repairs.main(["--json", str(tmp_path / "rows.json")]) == 2
    assert "expected rows of this benchmark in" in capsys.readouterr().err
