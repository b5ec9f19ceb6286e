"""The figures of a repair, by hand."""

import math

import numpy as np
import pytest
import torch

from dflare.search import Ending
from dflare.shards import ENDINGS, Endings
from dflare.triggers import Side
from repair.proof import evidence
from repair.proof.evidence import Judgement


def endings(rows: list[tuple[int, Ending, int]], ties: int = 0, unconfirmed: int = 0) -> Endings:
    n = len(rows)
    return Endings(
        torch.tensor([seed for seed, _, _ in rows]),
        torch.full((n,), int(Side.judge), dtype=torch.uint8),
        torch.tensor([ENDINGS.index(ending) for _, ending, _ in rows], dtype=torch.uint8),
        torch.tensor([queries for _, _, queries in rows]),
        torch.full((n,), ties),
        torch.full((n,), unconfirmed),
    )


def judgement(clean: list[int], probe: list[int], same_labels: list[int] | None = None) -> Judgement:
    as_mask = lambda values: np.array(values, dtype=bool)  # noqa: E731
    labels = probe if same_labels is None else same_labels
    return Judgement(as_mask(clean), as_mask([]), as_mask(probe), as_mask(labels), np.ones(3), 10, 5)


def test_a_search_is_summed_up_over_the_seeds_that_did_not_deviate_already():
    found = [(1, Ending.deviated, 4), (2, Ending.deviated, 8), (3, Ending.exhausted, 100), (4, Ending.already, 0)]
    figures = evidence.search_figures(endings(found, ties=1, unconfirmed=2), 100, 0)
    assert {key: figures[key] for key in ("seeds", "found", "already", "censored", "tied", "unconfirmed")} == {
        "seeds": 4,
        "found": 2,
        "already": 1,
        "censored": 1,
        "tied": 4,
        "unconfirmed": 8,
    }
    assert figures["success_rate"].value == pytest.approx(2 / 3)
    assert figures["queries_per_trigger"]["mean"].value == pytest.approx((4 + 8 + 100) / 3)
    assert figures["queries_per_trigger"]["p95"].value is None


def test_the_ratio_of_queries_is_taken_over_seeds_that_both_models_agree_on():
    before = endings([(1, Ending.deviated, 10), (2, Ending.deviated, 10), (3, Ending.already, 0)])
    after = endings([(3, Ending.deviated, 50), (2, Ending.exhausted, 100), (1, Ending.deviated, 20)])
    ratio = evidence.queries_ratio(before, after, 100, 0)
    assert ratio.value == pytest.approx((20 + 100) / 20)
    assert ratio.n == 2


def test_a_search_compared_with_itself_has_the_ratio_one():
    same = endings([(k, Ending.deviated, k + 1) for k in range(20)])
    ratio = evidence.queries_ratio(same, same, 100, 0)
    assert (ratio.value, ratio.low, ratio.high) == (1, 1, 1)


def test_broken_and_fixed_are_shares_of_all_clean_images():
    before, after = judgement([1, 1, 1, 0, 0], [1, 0]), judgement([1, 0, 1, 1, 0], [1, 1])
    figures = evidence.change_figures(before, after, np.array([1, 2]), np.array([0, 1]))
    assert figures["drawdown"].value == pytest.approx(1 / 5)
    assert figures["fixed"].value == pytest.approx(1 / 5)
    assert figures["net"].value == 0
    assert figures["clean_agreement_before"].value == pytest.approx(3 / 5)
    assert (figures["probe_before"].value, figures["probe_after"].value) == (0.5, 0)
    assert figures["probe_by_length"]["2"]["before"].value == 1


def test_ties_of_the_probe_are_counted_beside_its_deviations():
    before, after = judgement([1], [1, 1, 1, 0], [0, 0, 1, 0]), judgement([1], [1, 1, 1, 1], [1, 0, 1, 1])
    figures = evidence.change_figures(before, after, np.array([1, 1, 1, 1]), np.array([0, 1, 2, 3]))
    assert (figures["probe_before"].value, figures["probe_after"].value) == (0.25, 0)
    assert (figures["probe_labels_before"].value, figures["probe_labels_after"].value) == (0.75, 0.25)


def test_repairing_nothing_changes_nothing():
    same = judgement([1, 0, 1], [1, 0, 1, 1])
    figures = evidence.change_figures(same, same, np.array([1, 1, 2, 2]), np.array([0, 1, 0, 1]))
    assert [figures[key].value for key in ("drawdown", "fixed", "net")] == [0, 0, 0]
    assert figures["mcnemar_p"] == figures["probe_mcnemar_p"] == 1


def test_a_better_repair_is_positive_on_triggers_and_negative_on_deviations():
    start = judgement([1] * 10, [0] * 10)
    repaired, placebo = judgement([1] * 10, [1] * 8 + [0] * 2), judgement([0] * 5 + [1] * 5, [0] * 10)
    agrees = np.array([True] * 9 + [False]), np.array([False] * 10)
    ratio = evidence.queries_ratio(*[endings([(1, Ending.deviated, 10)])] * 2, 100, 0)
    paired = evidence.paired_with_placebo(repaired, placebo, start, {"generalization": agrees}, np.arange(10), ratio)
    assert paired["generalization"].value == pytest.approx(0.9)
    assert paired["probe_mcnemar_p"] == pytest.approx(0.00468, abs=1e-5)  # chi^2 = 8^2 / 8 over ten seeds of one image
    assert paired["probe_after"].value == pytest.approx(-0.8)
    assert paired["drawdown"].value == pytest.approx(-0.5)
    assert paired["drawdown"].low < paired["drawdown"].value < paired["drawdown"].high


def test_probe_images_of_one_seed_do_not_count_as_many():
    """Ten seeds of a hundred images each, all of a seed alike; three seeds fixed: (3 * 100)^2 / (3 * 100^2) = 3."""
    seeds = np.repeat(np.arange(10), 100)
    before, after = (judgement([1], (seeds >= wrong).tolist()) for wrong in (4, 1))
    found = evidence.change_figures(before, after, np.ones(1000, dtype=int), seeds)
    paired = evidence.paired_with_placebo(after, before, before, {}, seeds, evidence.metrics.NOTHING)
    chance = math.erfc(math.sqrt(3 / 2))  # of a chi^2 of 3: 0.083; of a thousand images alone it would be 10^-90
    assert found["probe_mcnemar_p"] == paired["probe_mcnemar_p"] == pytest.approx(chance)
    rates = [found["probe_before"], found["probe_after"], *found["probe_by_length"]["1"].values()]
    assert [figure.value for figure in rates] == pytest.approx([0.4, 0.1, 0.4, 0.1])
    assert all(figure.high - figure.low > 0.3 for figure in rates)
    assert paired["probe_after"].low < -0.5
    assert paired["probe_after"].high > 0


def test_an_image_that_deviated_before_is_broken_by_neither():
    """The placebo agrees on five images more than the repair does, which are fixed: its drawdown is no smaller."""
    start, placebo = judgement([0] * 5 + [1] * 5, [1]), judgement([1] * 10, [1])
    paired = evidence.paired_with_placebo(start, placebo, start, {}, np.arange(1), evidence.metrics.NOTHING)
    assert paired["drawdown"].value == 0
