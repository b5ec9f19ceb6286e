"""The mixed precision benchmark: what it says of rows, without a model."""

import re
from pathlib import Path

import pytest

onnx = pytest.importorskip("onnx")

import mixed_precision  # noqa: E402
from mixed_precision_rows import FLOAT, HANDED_IN, Row, shown  # noqa: E402
from repair.precision.mixed_precision import Step  # noqa: E402
from repair.proof.intervals import rate  # noqa: E402


def row(name: str, deviating: int = 100, repaired: int = 0, broken: float = 0.0, size: int = 1000) -> Row:
    step = Step((), Path("x.onnx"), size, 0.1, 0.01, rate(deviating, 10_000), rate(deviating, 10_000), rate(0, 0))
    return Row(name, step, {"boundary": rate(repaired, 100)}, broken, 0.0, 0.98)


START = [row(HANDED_IN), row(FLOAT, 100)]


def test_a_row_that_reaches_every_figure_is_enough():
    rows = [*START, row("poor", 90, 10), row("good", 20, 92, 0.001, 1100)]
    assert mixed_precision.shortfalls("mnist_lenet-5", rows) == []


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (row("r", 20, 91), "generalization 91.0% of triggers found by boundary"),
        (row("r", 21, 92), r"probe after / before 0.21 \(as handed in\)"),
        (row("r", 20, 92, 0.0011), "drawdown 0.11%"),
        (row("r", 20, 92, 0, 1101), "1,101 bytes"),
    ],
)
def test_each_figure_that_is_missed_is_named(other, words):
    short = mixed_precision.missing(other, *START, mnist=True)
    assert re.search(words, short[0])


def test_a_line_holds_rates_in_percent():
    assert mixed_precision.line(row("r", 100, 50)).startswith("| r | 1,000 | 0.000 | 1.000% (0.8")
    assert mixed_precision.percent(None) == "–"


def test_long_frontiers_are_shown_at_few_steps():
    assert shown(4) == [1, 2, 3]
    assert shown(6) == [1, 2, 3, 4, 5]
    assert shown(32) == [5, 11, 16, 21, 27]


def test_an_unknown_model_is_refused(capsys):
    assert mixed_precision.main(["--models", "nonsense"]) == 2
    assert "must be some of mnist_lenet-5" in capsys.readouterr().err
