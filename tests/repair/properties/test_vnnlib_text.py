"""Properties written as VNN-LIB: what is written is read back as the same property."""

import os
from pathlib import Path

import pytest
import torch

from repair.properties.property import Box, Case, Polytope, Property
from repair.properties.vnnlib import parse_vnnlib, read_vnnlib
from repair.properties.vnnlib_text import vnnlib_text, write_vnnlib

OFFICIAL = Path(os.environ.get("DFLARE_BENCH", Path(__file__).parents[3].parent / "shared")) / "data/acasxu/vnnlib"


def box(*sides: tuple[float, float]) -> Box:
    return Box(*torch.tensor(sides, dtype=torch.float64).unbind(-1))


def polytope(rows: list[list[float]], bounds: list[float]) -> Polytope:
    return Polytope(torch.tensor(rows, dtype=torch.float64), torch.tensor(bounds, dtype=torch.float64))


def assert_same(one: Property, other: Property) -> None:
    assert (one.inputs, one.outputs, len(one.cases)) == (other.inputs, other.outputs, len(other.cases))
    for mine, theirs in zip(one.cases, other.cases, strict=True):
        assert torch.equal(mine.box.low, theirs.box.low)
        assert torch.equal(mine.box.high, theirs.box.high)
        assert len(mine.unsafe) == len(theirs.unsafe)
        for part, same in zip(mine.unsafe, theirs.unsafe, strict=True):
            assert torch.equal(part.coefficients, same.coefficients)
            assert torch.equal(part.bounds, same.bounds)


def test_every_form_of_a_constraint_is_read_back():
    rows = [[1.0, -1.0, 0.0], [0.0, -1.0, 1.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [2.0, 0.0, -0.1], [0.0, 3.0, 0.0]]
    wanted = Property("forms", 1, 3, (Case(box((0, 1)), (polytope(rows, [0, 0, 2.5, -0.25, 1 / 3, 1e-7]),)),))
    assert_same(parse_vnnlib(vnnlib_text(wanted), "forms", "here"), wanted)


def test_ors_and_several_boxes_are_read_back():
    parts = polytope([[1.0, -1.0]], [0.0]), polytope([[0.0, 1.0], [1.0, 0.0]], [1e-30, -7.0])
    one = Property("an or", 2, 2, (Case(box((0, 1), (-1e-9, 1e-9)), parts),))
    two = Property("boxes", 2, 2, (*one.cases, Case(box((2, 3), (0, 0)), parts[:1])))
    for wanted in (one, two):
        assert_same(parse_vnnlib(vnnlib_text(wanted), wanted.name, "here"), wanted)


def test_numbers_are_written_exactly_and_without_exponents():
    sides = [(float(low), float(low) + 1e-12) for low in torch.rand(50, dtype=torch.float64)]
    wanted = Property("numbers", 50, 1, (Case(box(*sides), (polytope([[1.0]], [1e-20]),)),))
    text = vnnlib_text(wanted)
    assert_same(parse_vnnlib(text, "numbers", "here"), wanted)
    assert not any(
        character
        in text.partition("declare")[2]
        .replace("declare", "")
        .replace("assert", "")
        .replace("const", "")
        .replace("Real", "")
        for character in "eE"
    )


def test_a_name_of_several_lines_stays_a_comment():
    wanted = Property("two\nlines", 1, 1, (Case(box((0, 1)), (polytope([[1.0]], [0.0]),)),))
    assert parse_vnnlib(vnnlib_text(wanted), "x", "here").outputs == 1


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason=f"ACAS Xu's properties are not at {OFFICIAL} (DFLARE_BENCH)")
@pytest.mark.parametrize("number", range(1, 11))
def test_official_properties_of_acas_xu_survive_writing_and_reading(number: int, tmp_path: Path):
    wanted = read_vnnlib(OFFICIAL / f"prop_{number}.vnnlib")
    write_vnnlib(wanted, tmp_path / "again.vnnlib")
    assert_same(read_vnnlib(tmp_path / "again.vnnlib"), wanted)
