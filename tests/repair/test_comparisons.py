"""Runs compared: values known from tables and papers, laws, and what few runs cannot show."""

import numpy as np
import pytest

from repair.proof.comparisons import a12, compare_all, effect, holm, least_p, mann_whitney, mean_of_runs


def test_the_interval_of_a_mean_is_students():
    found = mean_of_runs([1.0, 2.0, 3.0])
    assert found.value == 2.0
    assert found.high - found.value == pytest.approx(4.3027 / 3**0.5, rel=1e-4)  # t(0.975, 2), deviation 1
    assert found.n == 3


def test_one_run_has_a_mean_without_ends_and_none_has_nothing():
    assert (mean_of_runs([4.0]).value, mean_of_runs([4.0]).low) == (4.0, None)
    assert mean_of_runs([]).value is None


def test_students_interval_covers_the_mean_as_often_as_it_says_and_the_normal_one_does_not():
    draws = np.random.default_rng(0).normal(size=(2000, 3))
    covered = [found.low <= 0 <= found.high for found in (mean_of_runs(row) for row in draws.tolist())]
    assert 0.93 < np.mean(covered) < 0.97
    half = 1.96 * draws.std(1, ddof=1) / 3**0.5
    assert np.mean(abs(draws.mean(1)) <= half) < 0.85


def test_a12_counts_who_is_greater_and_ties_as_half():
    assert a12([3, 4], [1, 2]) == 1.0
    assert a12([1, 2], [1, 2]) == 0.5
    assert a12([1, 3], [2, 2]) == 0.5
    assert a12([2, 3], [2]) == 0.75
    assert a12([1, 5, 2], [3, 0]) == pytest.approx(1 - a12([3, 0], [1, 5, 2]))


@pytest.mark.parametrize(
    ("a", "word"), [(0.5, "negligible"), (0.57, "small"), (0.36, "medium"), (0.29, "large"), (1.0, "large")]
)
def test_effects_have_the_names_of_vargha_and_delaney(a, word):
    assert effect(a) == word


def test_three_runs_against_three_reach_a_tenth_at_best():
    assert mann_whitney([4, 5, 6], [1, 2, 3]) == pytest.approx(0.1)
    assert least_p(3, 3) == pytest.approx(0.1)
    assert mann_whitney([1, 1], [1, 1]) == 1.0


def test_without_a_difference_the_test_is_wrong_as_often_as_it_says():
    draws = np.random.default_rng(1).normal(size=(1000, 2, 6))
    assert np.mean([mann_whitney(*pair) <= 0.05 for pair in draws.tolist()]) <= 0.06


def test_holm_is_that_of_the_paper_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.slow
def test_uncorrected_tests_of_many_arms_err_more_often_than_corrected_ones():
    draws = np.random.default_rng(2).normal(size=(300, 6, 6))
    wrong = [[mann_whitney(row[arm], row[0]) for arm in range(1, 6)] for row in draws.tolist()]
    assert np.mean([min(ps) <= 0.05 for ps in wrong]) > 0.1
    assert np.mean([min(holm(ps)) <= 0.05 for ps in wrong]) <= 0.06


def test_an_arm_without_runs_is_compared_with_nothing():
    found = compare_all([([1.0, 2.0], [3.0, 4.0]), ([], [3.0])])
    assert found[1] is None
    assert found[0] is not None
    assert (found[0].a12, found[0].words) == (0.0, "large")
    with pytest.raises(ValueError, match="runs on both sides"):
        a12([], [1.0])
