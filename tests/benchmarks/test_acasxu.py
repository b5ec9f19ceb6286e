"""The ACAS Xu benchmark: its rows, its samples, its table, its memory and its verdicts, and a row on few samples."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import acasxu
import acasxu_rows
import acasxu_samples
import acasxu_students
import acasxu_table
from acasxu_rows import METHODS
from acasxu_samples import ROWS, Row, read_birdnn
from dflare.errors import InputError
from pairs import bench_folder
from repair.properties.networks import open_network
from repair.properties.property import Box, Case, Polytope, Property
from repair.properties.vnnlib import read_vnnlib

NETWORKS = bench_folder() / "data" / "acasxu"


def row(**changes: float | str) -> dict:
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
    cells = acasxu_table.line(row(share=0.0123)).strip("| ").split(" | ")
    assert len(cells) == len(acasxu_table.HEADINGS)
    assert cells[:4] == ["N2,1 phi2", "`hinge`", "10000 (uniform)", "0.012"]


def test_means_have_a_line_for_every_method():
    *_, hinge, care = acasxu_table.means([row(), row(unseen=0.999), row(method="care", seconds=9.0)])
    cells = hinge.strip("| ").split(" | ")
    assert len(cells) == len(acasxu_table.MEANS)
    assert cells[:4] == ["`hinge`", "2", "100.000", "99.9500"]
    assert care.split(" | ")[8] == "9.00"


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
    found = acasxu_table.misses([row(**changes), row(**changes)])
    assert len(found) == len(missed)
    assert all(name in line for name, line in zip(missed, found, strict=True))


@pytest.mark.skipif(not NETWORKS.is_dir(), reason=f"needs the networks in {NETWORKS} (set DFLARE_BENCH)")
@pytest.mark.parametrize(("unseen", "code"), [(1.0, 0), (0.9, 1)])
def test_known_rows_are_not_measured_again_and_decide_the_check(unseen: float, code: int, tmp_path: Path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"rows": [row(unseen=unseen)]}))
    assert acasxu.main(["--rows", "N2,1:phi2", "--json", str(path), "--check"]) == code
    assert len(json.loads(path.read_text())["rows"]) == 1


def test_rows_with_nothing_to_repair_are_left_out_and_a_check_of_none_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def nothing(*asked: object) -> dict:
        raise InputError("no counterexample was found")

    monkeypatch.setattr(acasxu, "present", list)
    monkeypatch.setattr(acasxu, "measure", nothing)
    assert acasxu.main(["--quick", "--check"]) == 1
    said = capsys.readouterr().err
    assert "N2,1 phi2 left out: no counterexample was found" in said
    assert "short: no row of hinge was measured" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "N3,3:phi2"], "--rows must be some of N2,1:phi2; N2,2:phi2"),
        (["--rows", "N2,1:phi2", "--methods", "magic"], "--methods must be `all` or some of hinge, birdnn"),
    ],
)
def test_unknown_rows_and_methods_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(acasxu, "present", list)
    assert acasxu.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_missing_networks_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(acasxu_samples, "bench_folder", lambda: tmp_path)
    assert acasxu.main(["--quick"]) == 2
    assert "found none; set DFLARE_BENCH" in capsys.readouterr().err


def test_birdnns_samples_are_read_without_what_they_are_not_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """y = x on [0, 1] is unsafe from 0.5 on; duplicates, inputs outside of the box and wrong ones are left out."""
    h5py = pytest.importorskip("h5py")
    monkeypatch.setattr(acasxu_samples, "bench_folder", lambda: tmp_path)
    folder = tmp_path / "data" / "birdnn" / "N0"
    folder.mkdir(parents=True)
    box = Box(torch.zeros(1).double(), torch.ones(1).double())
    unsafe = Polytope(-torch.ones(1, 1), -torch.ones(1) / 2)
    wanted = Property("half", 1, 1, (Case(box, (unsafe,)),))
    opened = SimpleNamespace(network=lambda inputs: inputs)
    assert read_birdnn("N0", opened, wanted, 9) is None, "without files"
    for name in ("counterexample", "counterexample_test", "drawndown", "drawndown_test"):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file[name] = [[0.25], [0.25], [0.75], [0.75], [0.875], [1.5], [-1.0]]
    (bad, safe), unseen = read_birdnn("N0", opened, wanted, 9)
    assert sorted(bad.flatten().tolist()) == [0.75, 0.875]
    assert safe.tolist() == [[0.25]]
    assert torch.equal(unseen[0], bad)
    assert len(read_birdnn("N0", opened, wanted, 1)[0][0]) == 1


@pytest.mark.slow
@pytest.mark.skipif(not NETWORKS.is_dir(), reason=f"needs the networks in {NETWORKS} (set DFLARE_BENCH)")
def test_a_student_has_its_teachers_layers_and_another_activation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, small in {"STEPS": 200, "DRAWS": 2000, "ERRING": 100}.items():
        monkeypatch.setattr(acasxu_students, name, small)
    teacher, statement = Row(2, 7, 2).paths()
    wanted, domain = read_vnnlib(statement), read_vnnlib(Row(2, 7, 7).paths()[1])
    path = acasxu_students.student_file(teacher, "Tanh", wanted, domain, tmp_path)
    student, network = open_network(path).network, open_network(teacher).network
    assert student.widths == network.widths
    assert {activation.name for activation in student.activations} == {"Tanh", ""}
    inputs = domain.sample(1000, torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores = network(inputs)
        assert (student(inputs) - scores).square().mean() < 0.25 * scores.var()
    written = path.stat().st_mtime_ns
    assert acasxu_students.student_file(teacher, "Tanh", wanted, domain, tmp_path).stat().st_mtime_ns == written


@pytest.mark.slow
@pytest.mark.skipif(not NETWORKS.is_dir(), reason=f"needs the networks in {NETWORKS} (set DFLARE_BENCH)")
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_measured_on_a_row(method: str):
    found = acasxu_rows.measure(Row(2, 7, 2), method, n=300)
    assert found["counterexamples"] == 300
    assert (found["repaired"] > 0.2) == (method != "no-op")
    assert found["statement_before"]["rate"] == pytest.approx(0.027, abs=0.004)
    if method == "no-op":
        assert (found["agreement_box"], found["agreement_domain"], found["new_violations"]) == (1, 1, 0)
        assert found["statement_after"] == found["statement_before"]
    if method == "hinge":
        assert (found["repaired"], found["statement_after"]["violations"] < 20) == (1.0, True)
        assert found["agreement_box"] > 0.93  # of 300, learned from 300
