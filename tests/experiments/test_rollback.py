"""When a round is rolled back: what it breaks on the validate side decides."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dflare.errors import InputError
from experiments.rollback import breaks_too_much, check_decided
from experiments.run import Run
from experiments.settings import load_config
from repair.proof.metrics import paired_rates, plain


def changes(n: int, broken: int, fixed: int):
    before, after = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    after[:broken] = False
    before[broken : broken + fixed] = False
    return paired_rates(before, after)


@pytest.mark.parametrize(
    ("n", "broken", "fixed", "limit", "rolled_back"),
    [
        (1000, 10, 50, 0.01, False),  # just what is allowed
        (1000, 11, 50, 0.01, True),
        (10_000, 77, 39, 0.01, True),  # fewer than allowed, but clearly more broken than fixed
        (200, 1, 0, 0.01, False),  # one image more broken than fixed is chance
        (1000, 500, 0, None, False),  # no limit, no rollback
    ],
)
def test_a_round_is_rolled_back_for_what_it_breaks(n: int, broken: int, fixed: int, limit: float, rolled_back: bool):
    found = changes(n, broken, fixed)
    assert breaks_too_much(found.broken, found.net, limit) is rolled_back


def test_an_empty_validate_side_rolls_nothing_back():
    found = changes(0, 0, 0)
    assert not breaks_too_much(found.broken, found.net, 0.01)


def decided(broken: int, fixed: int, under: float | None, **seen: Any) -> dict[str, Any]:
    """A finished round of 1,000 validate images as rounds.jsonl has it."""
    found = changes(1000, broken, fixed)
    figures = plain({"drawdown": found.broken, "net": found.net, **seen})
    rolled_back = breaks_too_much(found.broken, found.net, under)
    return {"round": 0, "rolled_back": rolled_back, "repair": {"validate": figures}}


@pytest.mark.parametrize("limit", [0.01, 0.02, 0.5, None])
def test_a_limit_that_decides_as_before_may_replace_the_old_one(limit: float | None):
    check_decided(Path("run"), [decided(10, 50, 0.01, limit=0.01)], limit)


@pytest.mark.parametrize(
    ("entry", "limit", "words"),
    [
        (
            decided(11, 50, 0.01, limit=0.01),
            0.5,
            "was rolled back under gate.max_drawdown=0.01, with gate.max_drawdown=0.5 it",
        ),
        (decided(11, 50, 0.01, limit=0.01), None, "gate.max_drawdown=null it would have been kept"),
        (decided(11, 50, None, limit=None), 0.01, "was kept under gate.max_drawdown=null, with gate.max_drawdown=0.01"),
        (decided(11, 50, 0.5), 0.01, "was kept, with gate.max_drawdown=0.01 it would have been rolled back"),
    ],
)
def test_a_limit_that_would_decide_otherwise_is_refused(entry: dict[str, Any], limit: float | None, words: str):
    with pytest.raises(InputError, match="choose another run_dir") as caught:
        check_decided(Path("run"), [entry], limit)
    assert words in str(caught.value)


def test_a_round_that_had_nothing_to_decide_by_refuses_no_limit():
    check_decided(Path("run"), [{"round": 0, "rolled_back": False, "repair": {"validate": None}}], 0)
    check_decided(Path("run"), [decided(0, 0, 0.01, drawdown=None)], 0)


def test_each_round_that_was_rolled_back_halves_the_learning_rate_of_those_after_it():
    run = SimpleNamespace(settings=load_config(["repair.learning_rate=0.004"]))
    assert [Run.learning_rate(run, count) for count in range(3)] == [0.004, 0.002, 0.001]  # type: ignore[arg-type]
