"""Each limit of the gate: met, not met, not checked, and asked of a figure that is missing."""

from typing import Any

import pytest

from dflare.errors import InputError
from experiments.gate import judge_gate
from repair.proof.metrics import Figure, rate

NOTHING_ASKED = {"max_drawdown": None}


def headline(**changes: Any) -> dict[str, Any]:
    """A good headline, with figures replaced by `block__key=figure`."""
    good: dict[str, Any] = {
        "repair": {
            "probe_after": rate(400, 50_000).as_dict(),  # 0.80 %, upper end 0.882 %
            "drawdown": rate(40, 10_000).as_dict(),
            "fixed": rate(90, 10_000).as_dict(),
        },
        "search": {"queries_ratio": Figure(2.5, 2.1, 3.0, 400).as_dict()},
        "accuracy": {"before": rate(910, 1000).as_dict(), "after": rate(900, 1000).as_dict()},
        "cost": {"bytes_after": 60_000, "latency_after": Figure(0.25, 0.24, 0.26, 100).as_dict()},
        "beats_placebo": True,
        "beats_placebo_words": "The repair beats its placebo: it repairs 74.2 % of …",
    }
    for name, value in changes.items():
        block, _, key = name.partition("__")
        (good[block] if key else good)[key or block] = value
    return good


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        ({"max_probe_rate": 0.0089}, True),
        ({"max_probe_rate": 0.0085}, False),  # the value is below, the upper end of its interval is not
        ({"min_queries_ratio": 2.5}, True),
        ({"min_queries_ratio": 2.6}, False),
        ({"max_drawdown": 0.004}, True),
        ({"max_drawdown": 0.0039}, False),
        ({"max_accuracy_drop": 0.01}, True),
        ({"max_accuracy_drop": 0.009}, False),
        ({"max_bytes": 60_000}, True),
        ({"max_bytes": 59_999}, False),
        ({"max_latency_ms": 0.25}, True),
        ({"max_latency_ms": 0.2}, False),
        ({"beat_placebo": True}, True),
        ({"beat_placebo": False}, True),
        ({}, True),
    ],
)
def test_a_limit_decides(gate: dict[str, Any], passed: bool) -> None:
    result = judge_gate({**NOTHING_ASKED, **gate}, headline())
    assert result.passed is passed
    assert len(result.reasons) == (not passed)
    asked = [value for value in gate.values() if value is not False]
    assert len(result.reasons) + len(result.met) == len(asked)


@pytest.mark.parametrize(
    ("gate", "changes", "words"),
    [
        ({"max_probe_rate": 0.01}, {"repair__probe_after": None}, "gate.max_probe_rate = 1.00 % cannot be checked"),
        ({"min_queries_ratio": 2}, {"search__queries_ratio": rate(0, 0).as_dict()}, "no judge seed could be searched"),
        ({"min_queries_ratio": 2}, {"search": None}, "no judge seed could be searched"),
        ({"max_drawdown": 0.01}, {"repair__drawdown": None}, "gate.max_drawdown = 1.00 % cannot be checked"),
        ({"max_accuracy_drop": 0.01}, {"accuracy": None}, "the judge images have no labels"),
        ({"max_bytes": 100}, {"cost__bytes_after": None}, "gate.max_bytes = 100 cannot be checked"),
        ({"max_latency_ms": 1}, {"cost__latency_after": None}, "the latency was not measured"),
        (
            {"beat_placebo": True},
            {"beats_placebo": None, "beats_placebo_words": ""},
            "is not known (gate.beat_placebo).",
        ),
    ],
)
def test_a_limit_without_its_figure_fails(gate: dict[str, Any], changes: dict[str, Any], words: str) -> None:
    result = judge_gate({**NOTHING_ASKED, **gate}, headline(**changes))
    assert not result.passed
    assert words in result.reasons[0]


def test_the_default_gate_checks_drawdown_only() -> None:
    assert judge_gate({}, headline()).passed
    reasons = judge_gate({}, headline(repair__drawdown=rate(150, 10_000).as_dict())).reasons
    assert reasons == [
        "The repair breaks 1.50 % of 10,000 clean images and fixes 0.90 %; gate.max_drawdown = 1.00 % is not met."
    ]


def test_breaking_more_than_was_fixed_fails_below_the_limit() -> None:
    result = judge_gate({}, headline(repair__fixed=rate(39, 10_000).as_dict()))
    assert not result.passed
    assert "it must not break more than it fixes" in result.reasons[0]
    assert judge_gate({}, headline(repair__fixed=rate(40, 10_000).as_dict())).passed


def test_a_repair_that_loses_to_its_placebo_fails_only_when_asked() -> None:
    loser = headline(beats_placebo=False, beats_placebo_words="The repair does not beat its placebo: it …")
    assert judge_gate({"beat_placebo": False}, loser).passed
    assert judge_gate({"beat_placebo": True}, loser).reasons == [
        "The repair does not beat its placebo: it … (gate.beat_placebo)."
    ]


def test_all_failures_are_told_and_each_reason_is_one_sentence_with_numbers() -> None:
    gate = {
        "max_probe_rate": 0.001,
        "min_queries_ratio": 9,
        "max_accuracy_drop": 0,
        "max_bytes": 1,
        "max_latency_ms": 0.1,
    }
    result = judge_gate({**NOTHING_ASKED, **gate}, headline())
    assert len(result.reasons) == 5
    for reason in result.reasons:
        assert reason.endswith(".")
        assert any(character.isdigit() for character in reason)
    assert result.reasons[1] == (
        "A fresh search needs 2.50 [2.10, 3.00] times the queries of the search before; "
        "gate.min_queries_ratio = 9 is not met."
    )


def test_a_run_without_headline_does_not_pass() -> None:
    assert not judge_gate({}, None).passed


def test_an_unknown_limit_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"max_probe_rate, .*got gate\.max_drawdwon"):
        judge_gate({"max_drawdwon": 0.1}, headline())


def undone(**changes: Any) -> dict[str, Any]:
    """The headline of a run of which every round was rolled back."""
    nothing = rate(0, 10_000).as_dict()
    return headline(rolled_back=True, repair__drawdown=nothing, repair__fixed=nothing, **changes)


def test_a_run_that_repaired_nothing_does_not_pass_by_having_broken_nothing() -> None:
    result = judge_gate({}, undone())
    assert not result.passed
    assert result.reasons == [
        "Nothing was repaired: every round was rolled back, so the model is the one that was handed in, and no limit "
        "says how often that one may deviate; set gate.max_probe_rate to release it."
    ]
    assert len(result.met) == 1
    assert judge_gate({}, {**undone(), "rolled_back": False}).passed  # the wrong case: a repair that was kept


def test_the_model_handed_in_passes_where_it_meets_the_gate_itself() -> None:
    result = judge_gate({"max_probe_rate": 0.0089}, undone())
    assert (result.passed, result.reasons) == (True, [])
    assert result.met[0].endswith("the model is the one that was handed in, and it meets the gate as it is.")


@pytest.mark.parametrize("gate", [{"max_probe_rate": 0.0085}, {"max_probe_rate": 0.0089, "max_bytes": 1}])
def test_the_model_handed_in_fails_by_any_limit_and_it_is_said_that_nothing_was_repaired(gate: dict[str, Any]) -> None:
    result = judge_gate(gate, undone())
    assert not result.passed
    assert result.reasons[0].startswith("Nothing was repaired")
    assert "is not met" in result.reasons[1]
