"""When a round is rolled back: what it breaks on the validate side decides."""

import numpy as np
import pytest

from experiments.loop import breaks_too_much
from repair.proof.metrics import paired_rates


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
    assert breaks_too_much(changes(n, broken, fixed), limit) is rolled_back


def test_an_empty_validate_side_rolls_nothing_back():
    assert not breaks_too_much(changes(0, 0, 0), 0.01)
