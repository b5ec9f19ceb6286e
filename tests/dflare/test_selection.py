"""The laws by which mutations are chosen; the selection of the released code must fail the same checks."""

import math
from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from dflare import selection
from dflare.random import Draws, Purpose

M = 7
N = 60_000
RATES = torch.linspace(1, 0.1, M).expand(N, M)
"""Mutation k has rank k in every chain."""


def draws(n: int = N, step: int = 1) -> Draws:
    return Draws.of(0, torch.arange(n), torch.full((n,), step))


def chi_square(counts: Tensor, weights: Tensor) -> float:
    """Pearson's statistic in standard deviations above its mean; above 5 practically never when the law holds."""
    expected = weights.double() / weights.sum() * counts.sum()
    freedom = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom))


def rejection_loop(last: int, n: int) -> Tensor:
    """Ten lines of the published text: propose uniformly until accepted."""
    generator, chosen = np.random.default_rng(0), []
    while len(chosen) < n:
        proposal = int(generator.integers(M))
        if generator.random() < min(1.0, (1 - 1 / M) ** (proposal - last)):
            chosen.append(proposal)
    return torch.bincount(torch.tensor(chosen), minlength=M).double()


def authors_loop(last_rank: int, n: int) -> Tensor:
    """The authors' `choose_mutator`: draw a rank until accepted, where the last one's rank was looked up as -1."""
    p, generator, chosen = 1 / M, np.random.default_rng(1), []
    for _ in range(n):
        k2 = int(generator.integers(M))
        while generator.random() >= (1 - p) ** (k2 - last_rank):
            k2 = int(generator.integers(M))
        chosen.append(k2)
    return torch.bincount(torch.tensor(chosen), minlength=M).double()


@pytest.mark.parametrize("last", range(M))
def test_retry_is_the_rejection_loop_and_the_released_code_is_not(last):
    weights = torch.tensor([min(1.0, (6 / 7) ** (k - last)) for k in range(M)])
    if last in (0, 5):
        assert chi_square(rejection_loop(last, 20_000), weights) < 5  # the loop has the closed form as its law
    for select, holds in ((selection.retry, True), (selection.forgetful, last == 0)):
        chosen = select(torch.full((N,), last), RATES, draws())
        assert (chi_square(torch.bincount(chosen, minlength=M).double(), weights) < 5) is holds


def counts_of(select: selection.Selection, last: int, scores: Tensor) -> Tensor:
    return torch.bincount(select(torch.full((N,), last), scores, draws()), minlength=M).double()


@pytest.mark.parametrize("last", [0, 3, 6])
@pytest.mark.parametrize(
    ("select", "holds"), [(selection.forgetful, True), (selection.retry, False), (selection.uniform, False)]
)
def test_forgetful_draws_ranks_geometrically_whatever_was_tried_last(select, holds, last):
    weights = (1 - 1 / M) ** (torch.arange(M).double() + 1)
    if select is selection.retry:
        holds = last == 0  # a published rank of 0 is a power more, the same for all
    assert (chi_square(counts_of(select, last, RATES), weights) < 5) is holds


def two_samples(first: Tensor, second: Tensor) -> float:
    """Pearson's statistic of two samples of one unknown law, in standard deviations above its mean."""
    share = (first + second) / (first.sum() + second.sum())
    total = sum(((counts - share * counts.sum()) ** 2 / (share * counts.sum())).sum() for counts in (first, second))
    freedom = len(first) - 1
    return float((total - freedom) / math.sqrt(2 * freedom))


@pytest.mark.parametrize("select", [selection.forgetful, selection.retry])
def test_forgetful_is_the_loop_of_the_authors_code_and_the_published_text_is_not(select):
    loop = authors_loop(-1, 20_000)
    assert chi_square(loop, (6 / 7) ** torch.arange(M)) < 5
    assert (two_samples(counts_of(select, 3, RATES), loop) < 5) is (select is selection.forgetful)


def test_the_authors_loop_would_be_the_published_one_if_it_found_the_rank():
    found = authors_loop(3, 20_000)
    assert two_samples(counts_of(selection.retry, 3, RATES), found) < 5
    assert two_samples(counts_of(selection.forgetful, 3, RATES), found) > 5


def test_forgetful_is_uniform_while_nothing_has_helped(monkeypatch):
    nothing = torch.zeros(N, M)
    assert chi_square(counts_of(selection.forgetful, 3, nothing), torch.ones(M)) < 5
    monkeypatch.setattr(selection, "ranks", stable)  # the wrong case: ties in the order of the list
    assert chi_square(counts_of(selection.forgetful, 3, nothing), torch.ones(M)) > 5


def visits(select: Callable[[Tensor, Tensor, Draws], Tensor]) -> Tensor:
    n = 30_000
    last = draws(n).purpose(Purpose.FIRST).integers(M)
    for step in range(40):
        last = select(last, RATES[:n], draws(n, step))
    return torch.bincount(last, minlength=M).double()


@pytest.mark.parametrize(
    ("select", "holds"), [(selection.metropolis, True), (selection.retry, False), (selection.uniform, False)]
)
def test_metropolis_alone_visits_ranks_geometrically(select, holds):
    assert (chi_square(visits(select), (6 / 7) ** torch.arange(M)) < 5) is holds


def test_metropolis_stays_on_rejection():
    last = torch.zeros(N, dtype=torch.int64)
    chosen = selection.metropolis(last, RATES, draws())
    weights = (6 / 7) ** torch.arange(M).double() / M
    weights[0] = 1 - weights[1:].sum()
    assert chi_square(torch.bincount(chosen, minlength=M).double(), weights) < 5


@pytest.mark.parametrize(("select", "holds"), [(selection.uniform, True), (selection.retry, False)])
def test_uniform_alone_ignores_the_past(select, holds):
    counts = torch.bincount(select(torch.full((N,), 3), RATES, draws()), minlength=M).double()
    assert (chi_square(counts, torch.ones(M)) < 5) is holds


def stable(scores: Tensor, draws: Draws) -> Tensor:
    """Ranks whose ties keep the order of the list."""
    return scores.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)


@pytest.mark.parametrize(("rank", "holds"), [(selection.ranks, True), (stable, False)])
def test_ties_are_broken_in_every_order_equally_often(rank, holds):
    scores = torch.tensor([0.5, 0.9, 0.5, 0.5]).expand(N, 4)
    ranks = rank(scores, draws())
    assert (ranks[:, 1] == 0).all()
    orders = [torch.tensor(order) for order in permutations((1, 2, 3))]
    counts = torch.tensor([(ranks[:, [0, 2, 3]] == order).all(1).sum() for order in orders])
    assert int(counts.sum()) == N
    assert (chi_square(counts, torch.ones(6)) < 5) is holds


def test_ranks_count_the_better_ones():
    scores = torch.rand(100, M, generator=torch.Generator().manual_seed(0))
    better = (scores[:, None, :] > scores[:, :, None]).sum(-1)
    assert torch.equal(selection.ranks(scores, draws(100)), better)


def test_acceptance_is_the_published_formula():
    ranks = torch.tensor([[2, 0, 1], [0, 1, 2]])
    expected = [[1, 1, 1], [1, 2 / 3, 4 / 9]]
    torch.testing.assert_close(selection.acceptance(torch.tensor([0, 0]), ranks), torch.tensor(expected).double())


@pytest.mark.parametrize("select", [selection.retry, selection.forgetful, selection.metropolis, selection.uniform])
def test_a_choice_does_not_depend_on_who_else_is_in_the_batch(select):
    scores = torch.rand(50, M, generator=torch.Generator().manual_seed(0)).round(decimals=1)  # with ties
    last, rows = torch.arange(50) % M, torch.tensor([7, 3, 49])
    chosen = select(last, scores, draws(50))
    assert chosen.shape == (50,)
    assert chosen.dtype == torch.int64
    assert torch.equal(select(last[rows], scores[rows], draws(50)[rows]), chosen[rows])


@pytest.mark.parametrize("select", [selection.retry, selection.metropolis, selection.uniform, selection.forgetful])
def test_a_single_mutation_is_always_chosen(select):
    assert select(torch.zeros(5, dtype=torch.int64), torch.rand(5, 1), draws(5)).tolist() == [0] * 5
