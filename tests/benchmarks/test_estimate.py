"""The benchmark of the operational estimate finds what is biased and what covers too rarely."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import estimate as benchmark
from estimate import INTERVALS, Population, Row, line, measure


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Repetitions that take no time."""
    monkeypatch.setattr(benchmark, "REPETITIONS", 50)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def toy(name: str = "toy", rate: float = 0.05) -> Population:
    margins = np.arange(1000.0)
    return Population(name, margins, margins < 1000 * rate)


def test_a_row_holds_the_truth_and_all_four_intervals() -> None:
    row = measure(toy(), 200)
    assert (row.images, row.queries, row.rate) == (1000, 200, 0.05)
    assert set(row.coverage) == set(row.width) == set(INTERVALS)
    assert abs(row.bias) < 4 < abs(row.unweighted_bias)
    assert row.simple_random["variance"] > 400  # type: ignore[operator]
    assert len(line(row).split(" | ")) == len(benchmark.HEADINGS)


def test_a_pair_that_never_deviates_has_a_row_too() -> None:
    row = measure(toy(rate=0), 200)
    assert (row.bias, row.coverage["profile"], row.simple_random["variance"], row.bad) == (0, 1, None, [])
    assert line(row).endswith("| - |")


def bad_row(row: Row) -> Row:
    return replace(row, bias=-4.1, coverage=row.coverage | {"profile": 0.9})


def test_bias_and_under_coverage_fail_the_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(benchmark, "populations", lambda quick: [toy("quick" if quick else "all")])
    file = tmp_path / "rows.json"
    assert benchmark.main(["--check", "--quick", "--queries", "100", "--json", str(file)]) in (0, 1)
    assert json.loads(file.read_text(encoding="utf-8"))["rows"][0]["pair"] == "quick"
    row = measure(toy(), 200)
    monkeypatch.setattr(benchmark, "measure", lambda *_: bad_row(row))
    assert benchmark.main(["--check"]) == 1
    assert "toy: bias of -4.1 standard errors, the interval covers 90.0 %" in capsys.readouterr().err
    assert benchmark.main([]) == 0


def test_missing_models_are_said_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("DFLARE_BENCH", str(tmp_path))
    assert benchmark.main(["--quick"]) == 2
    assert "expected a model at" in capsys.readouterr().err
    monkeypatch.setattr(benchmark, "populations", lambda _: [toy()])
    assert benchmark.main(["--queries", "3"]) == 2
    assert "at least one a stratum" in capsys.readouterr().err
