"""The issue's figures, from invented rows."""

import pytest

import search
import table
from measure import SEQUENTIAL, Row
from pairs import QUANTISED, REDUCED


def row(pair: str, network: str, family: str, strategy: str, mean: float, rate: float, l2: float) -> Row:
    shrunk = l2 / 4 if strategy == table.BEST else None
    share = 0.9 if strategy == table.BEST else None
    queries = {"success": 1.0, "mean": mean, "median": mean, "p95": mean}
    others = {"per_second": rate, "l2": l2, "l2_shrunk": shrunk, "model_share": share}
    return Row(pair, network, family, strategy, seeds=100, **queries, **others)


def rows(best_mean: float = 10) -> list[Row]:
    strategies = ((SEQUENTIAL, 60, 10, 8.0), (table.RELEASED, 60, 100, 8.0), (table.BEST, best_mean, 250, 6.4))
    kinds = (("a", "LeNet-5", QUANTISED), ("b", "ResNet-20", QUANTISED), ("c", "LeNet-5", REDUCED))
    return [
        row(pair, network, family, strategy, mean * (1 if family == QUANTISED else 0.4), rate, l2)
        for pair, network, family in kinds
        for strategy, mean, rate, l2 in strategies
    ]


def verdicts(some: list[Row], workers: float | None) -> dict[str, tuple[float | None, str]]:
    return {figure.name: (figure.measured, figure.verdict) for figure in table.figures(some, workers)}


def test_figures_follow_from_the_rows() -> None:
    found = verdicts(rows(), 1.9)
    assert found["queries per trigger, int8 and quantised"] == (10, "ok")
    assert found["queries per trigger against dflare-released, int8 and quantised"] == (pytest.approx(1 / 6), "ok")
    assert found["queries per trigger, distilled and pruned"] == (4, "ok")
    assert found["median L2 as found against dflare-released's"] == (pytest.approx(0.8), "ok")
    assert found["median L2 after shrinking against dflare-released's as found"] == (pytest.approx(0.2), "ok")
    assert found["triggers per second against sequential, LeNet pairs"] == (25, "ok")
    assert all(verdict == "ok" for _, verdict in found.values())


def test_a_figure_on_the_wrong_side_is_short_and_a_missing_one_not_measured() -> None:
    found = verdicts(rows(best_mean=13), 1.7)
    assert found["queries per trigger, int8 and quantised"] == (13, "short")
    assert found["two workers against one, ResNet-20"] == (1.7, "short")
    without = verdicts([one for one in rows() if one.strategy != SEQUENTIAL], None)
    assert without["triggers per second against sequential, LeNet pairs"] == (None, "not measured")
    assert without["two workers against one, ResNet-20"] == (None, "not measured")


def test_the_check_names_what_falls_short(capsys: pytest.CaptureFixture[str]) -> None:
    assert search._verdict(table.figures(rows(), 1.9), restricted=False) == 0
    assert search._verdict(table.figures(rows(), None), restricted=True) == 0
    assert search._verdict(table.figures(rows(), None), restricted=False) == 1
    assert "not measured: two workers against one" in capsys.readouterr().err
    assert search._verdict(table.figures(rows(13), 1.9), restricted=True) == 1
    assert capsys.readouterr().err.startswith("short: queries per trigger against dflare-released, int8")


def test_means_over_pairs_and_ratios_are_printed() -> None:
    some = rows()
    assert table.summary(some)[QUANTISED][table.BEST]["mean"] == 10
    assert table.summary(some)[QUANTISED][table.BEST]["pairs"] == 2
    line = table.row_line(some[2], some)
    assert line.split()[0] == table.BEST
    assert line.split()[-3:] == ["0.167", "2.5", "25"]
    refused = Row("a", "LeNet-5", QUANTISED, "gradient", refused="needs gradients")
    assert table.row_line(refused, some).split(maxsplit=1) == ["gradient", "needs gradients"]


def test_a_wrong_name_on_the_command_line_lists_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert search.main(["--pairs", "lenet"]) == 2
    assert "mnist_lenet-5-int8" in capsys.readouterr().err
    assert search.main(["--strategies", "best"]) == 2
    assert "dflare, " in capsys.readouterr().err


def test_the_command_line_sets_the_effort() -> None:
    options = search._parser().parse_args(["--quick", "--shrink-queries", "7", "--references", "9", "--clock", "cpu"])
    effort = search._effort(options)
    assert (effort.shrink_queries, effort.references, effort.batch_size, effort.cpu_time) == (7, 9, 64, True)
    full = search._effort(search._parser().parse_args([]))
    assert (full.max_queries, full.batch_size, full.references, full.cpu_time) == (1000, None, 256, False)
