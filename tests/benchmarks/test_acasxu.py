"""The ACAS Xu benchmark: its rows, its table, its memory and its verdicts, and a row on few samples."""

import json
from pathlib import Path

import pytest

import acasxu
import acasxu_rows
from acasxu_rows import METHODS, ROWS, Row
from pairs import bench_folder

NETWORKS = bench_folder() / "data" / "acasxu"


def row(**changes: float) -> dict:
    """A row that nobody measured."""
    statement = {"samples": 69_075, "violations": 0, "delta": 1e-3, "bound": 1e-4, "rate": 0.0}
    return {
        "row": "N2,1 phi2",
        "method": "hinge",
        "samples": 10_000,
        "own": False,
        "seed": 0,
        "activation": "Relu",
        "source": "uniform",
        "share": 0.01,
        "counterexamples": 10_000,
        "unseen_counterexamples": 10_000,
        "repaired": 1.0,
        "unseen": 1.0,
        "new_violations": 0.0,
        "agreement_box": 0.995,
        "agreement_domain": 0.99,
        "seconds": 1.5,
        "cpu_seconds": 1.5,
        "sampling_seconds": 2.0,
        "statement_before": statement,
        "statement_after": statement,
    } | changes


def test_the_rows_are_veres_36():
    names = [one.name for one in ROWS]
    assert len(set(names)) == 36
    assert {"N2,1 phi2", "N5,9 phi2", "N1,9 phi7", "N2,9 phi8"} <= set(names)
    assert not {"N3,3 phi2", "N4,2 phi2"} & set(names)


def test_a_line_has_a_cell_for_every_heading():
    cells = acasxu.line(row(share=0.0123)).strip("| ").split(" | ")
    assert len(cells) == len(acasxu.HEADINGS)
    assert cells[:4] == ["N2,1 phi2", "`hinge`", "10000 (uniform)", "0.012"]


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, []),
        ({"unseen": 0.9998}, ["unseen >= 0.9999"]),
        ({"new_violations": 2e-4}, ["new_violations <= 0.0001"]),
        ({"seconds": 2.5, "agreement_domain": 0.97}, ["agreement_domain >= 0.98", "seconds <= 2"]),
    ],
)
def test_means_that_miss_a_figure_are_named(changes: dict[str, float], missed: list[str]):
    found = acasxu.misses([row(**changes), row(**changes)])
    assert len(found) == len(missed)
    assert all(name in line for name, line in zip(missed, found, strict=True))


@pytest.mark.skipif(not NETWORKS.is_dir(), reason=f"needs the networks in {NETWORKS} (set DFLARE_BENCH)")
@pytest.mark.parametrize(("unseen", "code"), [(1.0, 0), (0.9, 1)])
def test_known_rows_are_not_measured_again_and_decide_the_check(unseen: float, code: int, tmp_path: Path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"rows": [row(unseen=unseen)]}))
    assert acasxu.main(["--rows", "N2,1:phi2", "--json", str(path), "--check"]) == code
    assert len(json.loads(path.read_text())["rows"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "N3,3:phi2"], "--rows must be some of N2,1:phi2; N2,2:phi2"),
        (["--rows", "N2,1:phi2", "--methods", "magic"], "--methods must be `all` or some of hinge, plain"),
    ],
)
def test_unknown_rows_and_methods_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(acasxu, "present", list)
    assert acasxu.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_missing_networks_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(acasxu_rows, "bench_folder", lambda: tmp_path)
    assert acasxu.main(["--quick"]) == 2
    assert "found none; set DFLARE_BENCH" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not NETWORKS.is_dir(), reason=f"needs the networks in {NETWORKS} (set DFLARE_BENCH)")
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_measured_on_a_row(method: str):
    found = acasxu_rows.measure(Row(2, 7, 2), method, n=300)
    assert found["counterexamples"] == 300
    assert found["repaired"] > 0.2
    assert found["statement_before"]["rate"] == pytest.approx(0.027, abs=0.004)
    if method == "hinge":
        assert (found["repaired"], found["statement_after"]["violations"] < 20) == (1.0, True)
        assert found["agreement_box"] > 0.93  # of 300, learned from 300
