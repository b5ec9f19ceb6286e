"""Integers that stand for numbers, and what the shape of an input says."""

import pytest
import torch

from dflare.errors import InputError
from dflare.models.grids import Grid, dequantised, image_takes, quantised
from dflare.models.interface import Interface, Takes
from dflare.models.shown import Shown

FLOAT = Grid(torch.float32)


def test_halves_go_away_from_zero_or_to_the_even_neighbour_and_what_does_not_fit_to_the_ends():
    grid = Grid(torch.int8, 0.5, 3)
    numbers = torch.tensor([-1000.0, -0.75, -0.25, -0.1, 0.0, 0.24999999, 0.25, 0.75, 1.25, 1000.0])
    assert quantised(numbers, grid).tolist() == [-128, 1, 2, 3, 3, 3, 4, 5, 6, 127]
    assert quantised(numbers, grid, halves_to_even=True).tolist() == [-128, 1, 3, 3, 3, 3, 3, 5, 5, 127]
    assert dequantised(torch.tensor([-128, 3, 5], dtype=torch.int8), grid).tolist() == [-65.5, 0, 1]


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize(
    "grid",
    [
        Grid(torch.int8, 1.0, -128),
        Grid(torch.uint8),
        Grid(torch.int8, 1 / 255, -128),
        Grid(torch.uint8, 1 / 255),
        Grid(torch.int8, 2 / 255, 0),
    ],
)
def test_each_grey_level_reaches_an_integer_of_its_own(grid, even):
    levels = torch.arange(256)
    shown = Shown(lambda values: values, Interface(range=grid.range)).show((levels / 255)[None, None, None])
    integers = quantised(shown, grid, even).flatten().int()
    if grid.range == (-1, 1):  # the scale 2/255 puts white half a step beyond the greatest integer
        assert (integers.diff() >= 0).all()
    else:
        assert torch.equal(integers, levels + grid.zero_point)


def test_floats_are_cast_and_nothing_else():
    numbers = torch.tensor([0.1, -3.7])
    assert quantised(numbers, FLOAT) is numbers
    assert torch.equal(quantised(numbers, Grid(torch.float16)), numbers.half())
    assert dequantised(numbers.double(), Grid(torch.float64, 5.0, 1)).dtype == torch.float32


@pytest.mark.parametrize(
    ("grid", "ends"),
    [
        (Grid(torch.int8, 1.0, -128), (0, 255)),
        (Grid(torch.uint8, 1.0, 0), (0, 255)),
        (Grid(torch.uint8), (0, 255)),
        (Grid(torch.int8), None),
        (Grid(torch.int8, 1 / 255, -128), (0, 1)),
        (Grid(torch.int8, 1 / 256, -128), (0, 1)),
        (Grid(torch.uint8, 0.00392157, 0), (0, 1)),
        (Grid(torch.int8, 1 / 128, 0), (-1, 1)),
        (Grid(torch.int8, 1 / 127.5, 0), (-1, 1)),
        (Grid(torch.uint8, 1 / 127.5, 128), (-1, 1)),
        (Grid(torch.int8, 0.018658, -14), None),
        (Grid(torch.int16, 1 / 32768, 0), (-1, 1)),
        (Grid(torch.float32, 1.0, 0), None),
    ],
)
def test_a_range_is_seen_where_a_grid_spans_it_to_within_a_level(grid, ends):
    assert grid.range == ends


@pytest.mark.parametrize(
    ("shape", "last", "takes"),
    [
        (("n", 3, 8, 9), False, Takes(3, 8, 9, "nchw")),
        (("n", 3, 8, 9), True, Takes(3, 8, 9, "nchw")),
        (("n", 8, 9, 3), False, Takes(3, 8, 9, "nhwc")),
        (("n", 8, 9, 1), True, Takes(1, 8, 9, "nhwc")),
        ((4, 1, "h", "w"), False, Takes(1, None, None, "nchw", batches=(4, 4))),
        (("n", "a", "b", "c"), False, Takes(layout="nchw")),
        (("n", "a", "b", "c"), True, Takes(layout="nhwc")),
        (("n", 5, 8, 9), False, Takes(5, 8, 9, "nchw")),
        (("n", 8, 9, 5), True, Takes(5, 8, 9, "nhwc")),
        (("n", 3, 3, 3), False, Takes(3, 3, 3, "nchw")),
        (("n", 3, 3, 3), True, Takes(3, 3, 3, "nhwc")),
    ],
)
def test_one_or_three_of_something_are_the_channels(shape, last, takes):
    assert image_takes(shape, last, FLOAT, "it") == takes


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 12), r"must take images \(n, channels, .*, it takes \(1, 12\)"),
        (("n", 3, 8, 8, 8), r"it takes \(n, 3, 8, 8, 8\)"),
        (("n", 3, 32_000, 32_000), "at most 268,435,456 numbers at once, it takes n x 3 x 32000 x 32000"),
        ((10**6, 3, 224, 224), "at most 268,435,456 numbers"),
        (("n", 3, -7, 8), "at least 1 .* it takes n x 3 x -7 x 8"),
    ],
)
def test_shapes_that_are_none_of_images_are_refused(shape, words):
    with pytest.raises(InputError, match=f"it must take.*{words}" if "least" in words else words):
        image_takes(shape, False, FLOAT, "it")
