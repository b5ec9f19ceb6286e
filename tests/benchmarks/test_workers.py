"""Processes that search disjoint halves of the seeds."""

import pytest
import torch

import workers
from dflare.seeds import Seeds, pixel_hash
from measure import Effort


@pytest.mark.slow
def test_a_worker_that_fails_ends_the_race_with_its_reason() -> None:
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="one of 2 workers on no such pair failed: KeyError"):
        workers.race(2, "no such pair", "random", Seeds(images, pixel_hash(images)), Effort(), ".onnx")


def test_the_ratio_says_how_many_times_faster_two_are() -> None:
    assert workers.Comparison("pair", "random", 100, one=9.0, two=5.0).ratio == 1.8
