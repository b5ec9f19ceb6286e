"""The way from one image to another, against a ten-line brute force and what it must be in closed form."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dflare import crossing
from dflare.crossing import WHOLE, between

POSITIONS = [0, 1, 2, 1000, WHOLE // 3, WHOLE // 2, WHOLE - 1000, WHOLE - 1, WHOLE]


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def at(first: Tensor, second: Tensor, position: int) -> Tensor:
    return between(first, second, torch.full((len(first),), position))


def brute_force(first: np.ndarray, second: np.ndarray, position: int, dither: np.ndarray) -> np.ndarray:
    """Pixel by pixel in Python's unbounded whole numbers."""
    made = np.empty_like(first)
    for place in np.ndindex(*first.shape):
        start, end = int(first[place]), int(second[place])
        steps = (abs(end - start) * position + int(dither[place[1:]])) // WHOLE
        made[place] = start + steps if end > start else start - steps
    return made


@pytest.mark.parametrize("shape", [(3, 1, 1, 1), (2, 1, 28, 28), (1, 3, 7, 5)])
def test_the_ends_are_the_two_images_exactly(shape):
    first, second = noise(0, *shape), noise(1, *shape)
    assert torch.equal(at(first, second, 0), first)
    assert torch.equal(at(first, second, WHOLE), second)
    assert torch.equal(at(first, first, WHOLE // 2), first)


@pytest.mark.parametrize("position", POSITIONS)
def test_every_pixel_is_what_unbounded_whole_numbers_give(position):
    first, second = noise(0, 2, 3, 6, 5), noise(1, 2, 3, 6, 5)
    first[0, 0, 0], second[0, 0, 0] = 0, 255  # the largest products, both ways
    first[0, 0, 1], second[0, 0, 1] = 255, 0
    dither = crossing._dither(first.shape[1:], first.device).numpy()
    expected = brute_force(first.numpy(), second.numpy(), position, dither)
    assert torch.equal(at(first, second, position), torch.from_numpy(expected))


def test_the_longest_way_fits_into_32_bits():
    dither = crossing._dither(torch.Size([3, 32, 32]), torch.device("cpu"))
    assert dither.dtype == torch.int32
    assert int(dither.min()) >= 0
    assert int(dither.max()) < WHOLE
    assert 255 * WHOLE + int(dither.max()) < 2**31


def test_each_pixel_goes_one_way_in_steps_of_one_level():
    first, second = noise(0, 1, 1, 8, 8), noise(1, 1, 1, 8, 8)
    every = torch.arange(0, WHOLE + 1, WHOLE // 1024)  # at most 0.25 levels apart
    images = between(first.expand(len(every), -1, -1, -1), second.expand(len(every), -1, -1, -1), every).int()
    steps = images.diff(dim=0) * (second.int() - first.int()).sign()
    assert set(steps.unique().tolist()) == {0, 1}
    assert torch.equal(steps.sum(0), (second.int() - first.int()).abs()[0])


def share_of_the_way(images: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """How far the images are in L1, as a share of the whole distance, (n,)."""
    whole = (second.int() - first.int()).abs().sum((1, 2, 3))
    return (images.int() - first.int()).abs().sum((1, 2, 3)) / whole


def rounded(first: Tensor, second: Tensor, position: Tensor) -> Tensor:
    """The wrong case: a straight line, rounded without dither."""
    share = (position / WHOLE).view(-1, 1, 1, 1)
    return (first + (second.int() - first.int()) * share).round().to(torch.uint8)


@pytest.mark.parametrize(("way", "holds"), [(between, True), (rounded, False)])
def test_the_distance_to_the_first_image_rises_as_the_position_does(way, holds):
    n, apart = 50, 3  # grey levels: few, so that a way without dither jumps
    positions = torch.linspace(0, WHOLE, n).long()
    first = torch.full((n, 3, 32, 32), 100, dtype=torch.uint8)
    second = first + apart
    error = (share_of_the_way(way(first, second, positions), first, second) - positions / WHOLE).abs()
    # a pixel's steps are floor(x + u), u uniform: mean x, variance at most 1/4
    assert bool((error <= 5 * 0.5 / math.sqrt(3 * 32 * 32) / apart).all()) is holds


@pytest.mark.parametrize(("way", "holds"), [(between, True), (rounded, False)])
def test_positions_that_differ_by_little_differ_in_few_pixels(way, holds):
    first, second = torch.zeros(1, 1, 28, 28, dtype=torch.uint8), torch.full((1, 1, 28, 28), 50, dtype=torch.uint8)
    step = WHOLE // (784 * 50)  # one level of one pixel, on average
    positions = torch.arange(WHOLE // 3, WHOLE // 3 + 1500 * step, step)
    n = len(positions)
    images = way(first.expand(n, -1, -1, -1), second.expand(n, -1, -1, -1), positions)
    changed = (images[1:] != images[:-1]).sum((1, 2, 3))
    assert bool(changed.max() <= 10) is holds  # Poisson with mean 1: more than 10 once in 10^8
    assert bool((changed > 0).double().mean() > 0.5) is holds  # 1 - 1/e of the positions are new images


def test_a_way_does_not_depend_on_who_else_is_in_the_batch():
    first, second = noise(0, 9, 3, 5, 4), noise(1, 9, 3, 5, 4)
    positions, rows = torch.tensor(POSITIONS), torch.tensor([7, 0, 4])
    assert torch.equal(between(first[rows], second[rows], positions[rows]), between(first, second, positions)[rows])


def test_neither_image_is_changed():
    first, second = noise(0, 2, 1, 4, 4), noise(1, 2, 1, 4, 4)
    before = first.clone(), second.clone()
    at(first, second, WHOLE // 2)
    assert torch.equal(first, before[0])
    assert torch.equal(second, before[1])
