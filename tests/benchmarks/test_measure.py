"""Rows of the benchmark on a closed-form pair, against what the search itself says."""

from pathlib import Path

import pytest
import torch

from dflare.classifiers import ModelPair
from dflare.search import Ending, Search
from dflare.seeds import Seeds, pixel_hash
from dflare.strategies import make_kernel
from measure import SEQUENTIAL, Effort, Found, measure, query_figures
from memory import BRIGHT, DARK, Linear
from pairs import QUANTISED, Kind, Subject
from sequential import one_at_a_time

EFFORT = Effort(max_queries=60, batch_size=16, shrunk=())


@pytest.fixture(scope="module")
def subject() -> Subject:
    images = torch.randint(0, 200, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pairs = [ModelPair(Linear(BRIGHT), Linear(DARK)) for _ in range(2)]
    agreed = images[~pairs[0](images).deviates]
    kind = Kind("toy", "linear", QUANTISED, "noise", "original", "compressed")
    files = (Path("original.tflite"), Path("compressed.tflite"))
    return Subject(kind, *pairs, one_at_a_time(pairs[0]), Seeds(agreed, pixel_hash(agreed)), files, images)


@pytest.mark.slow
def test_a_row_says_what_the_search_found(subject: Subject) -> None:
    row = measure(subject, "random", EFFORT)
    search = Search(make_kernel("random"), subject.pair, subject.confirm, 0, 60, 16)
    ended = list(search.run([subject.seeds]))
    found = sum(len(one.chains) for one in ended if one.ending is Ending.deviated)
    queries = sum(int(one.chains.queries.sum()) for one in ended)
    assert row.refused is None
    assert row.seeds == len(subject.seeds) == 40
    assert row.success == pytest.approx(found / 40)
    assert row.mean == pytest.approx(queries / 40)
    assert row.preflight == 0
    assert row.full_share is not None
    assert 0 < row.full_share < 1
    assert row.model_share is not None
    assert row.model_share > 0


def test_sequential_gives_a_row_of_the_same_kind(subject: Subject) -> None:
    row = measure(subject, SEQUENTIAL, EFFORT)
    assert row.refused is None
    assert row.success is not None
    assert 0 < row.success < 1
    assert row.mean is not None
    assert 1 <= row.mean <= 60
    assert row.model_share is None


@pytest.mark.parametrize(("strategy", "reason"), [("no such strategy", "search.strategy"), ("gradient", ".tflite")])
def test_a_strategy_that_refuses_says_why(subject: Subject, strategy: str, reason: str) -> None:
    row = measure(subject, strategy, EFFORT)
    assert row.refused is not None
    assert reason in row.refused
    assert row.mean is None


def test_an_unfound_seed_counts_as_the_budget_and_quantiles_beyond_the_found_are_none() -> None:
    queries = torch.tensor([1, 2, 3, 50])
    found = Found(queries, torch.tensor([True, True, True, False]), torch.tensor([1.0, 3.0, 2.0]))
    figures = query_figures(found, 2.0, 100)
    assert figures == {
        "success": 0.75,
        "mean": 26.5,
        "median": 2.5,
        "p95": None,
        "seconds": 2.0,
        "per_second": 1.5,
        "l2": 2.0,
    }
