"""VNN-LIB files: what they state, decided on paper, and what is refused with its line."""

import os
from pathlib import Path

import pytest
import torch

from dflare.errors import InputError
from repair.properties.expressions import DEEPEST
from repair.properties.vnnlib import parse_vnnlib, read_vnnlib

BENCH = Path(os.environ.get("DFLARE_BENCH", Path(__file__).parents[2].parent / "shared"))
PROPERTIES = BENCH / "data" / "acasxu" / "vnnlib"

DECLARED = """; two inputs, three outputs
(declare-const X_0 Real) (declare-const X_1 Real)
(declare-const Y_0 Real) (declare-const Y_1 Real) (declare-const Y_2 Real)
"""
BOX = DECLARED + "(assert (<= X_0 1)) (assert (>= X_0 0)) (assert (<= X_1 2.0)) (assert (>= X_1 -1e0))\n"


def violated(text: str, inputs: list[float], outputs: list[float]) -> bool:
    found = parse_vnnlib(text, "made up", "test.vnnlib")
    return bool(found.violated(torch.tensor([inputs]).float(), torch.tensor([outputs]))[0])


@pytest.mark.parametrize(
    ("outputs", "unsafe"), [([3.0, 1.0, 2.0], True), ([1.0, 3.0, 2.0], False), ([2.0, 1.0, 3.0], False)]
)
def test_assertions_hold_at_once(outputs: list[float], unsafe: bool):
    """Unsafe iff Y_0 is maximal, as in ACAS Xu's property 2."""
    assert violated(BOX + "(assert (<= Y_1 Y_0))\n(assert (<= Y_2 Y_0))", [0.5, 0.5], outputs) is unsafe


def test_or_takes_any_and_needs_all():
    either = BOX + "(assert (or (and (<= Y_1 Y_0)) (and (<= Y_2 Y_0))))"
    both = BOX + "(assert (and (<= Y_1 Y_0) (<= Y_2 Y_0)))"
    assert violated(either, [0.5, 0.5], [2.0, 1.0, 3.0])
    assert not violated(both, [0.5, 0.5], [2.0, 1.0, 3.0])
    assert not violated(either, [0.5, 0.5], [1.0, 2.0, 3.0])


def test_ors_multiply_out():
    text = BOX + "(assert (or (<= Y_0 0) (<= Y_1 0)))\n(assert (or (>= Y_2 1) (>= Y_2 3)))"
    assert violated(text, [0, 0], [-1.0, 5.0, 2.0])
    assert not violated(text, [0, 0], [-1.0, 5.0, 0.0])
    assert not violated(text, [0, 0], [1.0, 5.0, 2.0])


def test_an_input_outside_of_the_box_is_no_counterexample():
    text = BOX + "(assert (<= Y_0 0))"
    assert violated(text, [1.0, -1.0], [-1.0, 0, 0])
    assert not violated(text, [1.1, 0.0], [-1.0, 0, 0])
    assert not violated(text, [0.5, 2.5], [-1.0, 0, 0])


def test_every_alternative_has_its_own_box_and_outputs():
    """Boxes and outputs in one `or`, as in VNN-COMP's robustness files: the left half must keep Y_0, the right Y_1."""
    left = "(and (>= X_0 0) (<= X_0 1) (>= X_1 0) (<= X_1 1) (<= Y_0 0))"
    right = "(and (>= X_0 2) (<= X_0 3) (>= X_1 0) (<= X_1 1) (<= Y_1 0))"
    text = f"{DECLARED}(assert (or {left} {right}))"
    assert [violated(text, [x, 0.5], [-1.0, 1.0, 0.0]) for x in (0.5, 1.5, 2.5)] == [True, False, False]
    assert [violated(text, [x, 0.5], [1.0, -1.0, 0.0]) for x in (0.5, 1.5, 2.5)] == [False, False, True]


def test_sums_products_and_numbers_are_read():
    text = BOX + "(assert (<= (+ (* 2 Y_0) (* Y_1 -1.5) 1e-1) (- Y_2 (- 3))))"  # 2 y0 - 1.5 y1 + 0.1 <= y2 + 3
    (polytope,) = parse_vnnlib(text, "sum", "test").cases[0].unsafe
    assert polytope.coefficients.tolist() == [[2.0, -1.5, -1.0]]
    assert polytope.bounds.tolist() == pytest.approx([2.9])


def test_bounds_may_be_written_either_way_and_the_tightest_counts():
    text = DECLARED + "(assert (and (<= 0 X_0) (<= (* -2 X_0) -0.5) (>= 3 X_0) (<= X_1 X_1) (<= X_1 1) (>= X_1 1)))"
    box = parse_vnnlib(text + "(assert (<= Y_0 0))", "box", "test").cases[0].box
    assert box.low.tolist() == [0.25, 1.0]
    assert box.high.tolist() == [3.0, 1.0]


def test_declarations_of_functions_and_other_commands_are_read():
    text = "(set-logic QF_LRA)(declare-fun X_0 () Real)(declare-fun Y_0 () Real)"
    text += "(assert (<= X_0 1))(assert (>= X_0 0))(assert (>= Y_0 0))(check-sat)"
    assert parse_vnnlib(text, "fun", "test").inputs == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(assert (<= X_0 1)", r"test, line 1: the bracket that opens here is never closed"),
        ("\n)", r"test, line 2: expected an opening bracket, got '\)'"),
        ("X_0", r"test, line 1: expected an opening bracket, got 'X_0'"),
        ("(" * (DEEPEST + 1), r"expected at most 64 open brackets"),
        ("(declare-const X_0 Int)", r"line 1: expected \(declare-const NAME Real\)"),
        ("(declare-const speed Real)", r"an input X_0 or an output Y_0, got \(declare-const speed Real\)"),
        ("(declare-const X_0 Real)\n(declare-const X_0 Real)", r"line 2: expected X_0 to be declared once"),
        ("(declare-const X_1 Real)", r"declared without gaps, got 1 up to X_1"),
        ("(declare-const X_0 Real)", r"expected Y_0, Y_1, ... declared without gaps, got none"),
        ("(define-fun f)", r"line 1: expected \(declare-const NAME Real\) or \(assert CONSTRAINT\)"),
        (DECLARED + "(assert (< X_0 1))", r"line 4: expected .*got \(< X_0 1\)"),
        (DECLARED + "(assert (not (<= X_0 1)))", r"line 4: expected \(and ...\), \(or ...\)"),
        (DECLARED + "(assert (<= X_0))", r"line 4: expected \(<= A B\)"),
        (DECLARED + "(assert (or))", r"a constraint inside \(or ...\)"),
        (DECLARED + "(assert (<= X_7 1))", r"a number or a declared variable, got 'X_7'"),
        (DECLARED + "(assert (<= X_0 nan))", r"a number or a declared variable, got 'nan'"),
        (DECLARED + "(assert (<= (* Y_0 Y_1) 1))", r"a product with a number, since constraints are linear"),
        (BOX + "(assert (<= (+ X_0 Y_1) 1))", r"line 5: expected a constraint on inputs or on outputs"),
        (BOX + "(assert (<= (+ X_0 X_1) 1))(assert (<= Y_0 0))", r"bounds of one input at a time, .*X_0 and X_1"),
        (DECLARED + "(assert (<= X_0 1))(assert (<= Y_0 0))", r"expected bounds on both sides of X_0"),
        (BOX.replace("1)", "1e39)") + "(assert (<= Y_0 0))", r"expected bounds of X_0 within 3\.4e\+38"),
        (BOX, r"expected a constraint on outputs in every case"),
        (BOX + "(assert (>= X_0 2))(assert (<= Y_0 0))", r"the bounds contradict each other"),
    ],
)
def test_what_is_no_property_is_refused_in_one_sentence(text: str, message: str):
    with pytest.raises(InputError, match=message):
        parse_vnnlib(text, "broken", "test")


def test_alternatives_do_not_explode():
    either = "(or " + " ".join(f"(<= Y_0 {i})" for i in range(200)) + ")"
    with pytest.raises(InputError, match=r"expected at most 20000 cases, got 40000"):
        parse_vnnlib(BOX + f"(assert {either})\n(assert {either})", "big", "test")


def test_missing_and_binary_files_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"expected a VNN-LIB file at .*none.vnnlib, found none"):
        read_vnnlib(tmp_path / "none.vnnlib")
    (tmp_path / "image.vnnlib").write_bytes(b"(assert \xff)")
    with pytest.raises(InputError, match=r"expected VNN-LIB text in UTF-8 .*byte 8 is not"):
        read_vnnlib(tmp_path / "image.vnnlib")


@pytest.mark.skipif(not PROPERTIES.is_dir(), reason=f"needs the properties in {PROPERTIES} (set DFLARE_BENCH)")
class TestAcasXu:
    """The minimum is the advisory: [COC, weak left, weak right, strong left, strong right]."""

    @pytest.mark.parametrize(
        ("number", "rows"),
        [
            *((1, [[1]]), (2, [[4]]), (3, [[4]]), (4, [[4]]), (5, [[1] * 4]), (6, [[1] * 4] * 2), (7, [[3] * 2])),
            *((8, [[2] * 3]), (9, [[1] * 4]), (10, [[1] * 4])),
        ],
    )
    def test_all_ten_are_read(self, number: int, rows: list[list[int]]):
        found = read_vnnlib(PROPERTIES / f"prop_{number}.vnnlib")
        assert (found.inputs, found.outputs) == (5, 5)
        assert [[len(polytope.bounds) for polytope in case.unsafe] for case in found.cases] == rows

    @pytest.mark.parametrize("advisory", range(5))
    def test_property_7_forbids_strong_advisories(self, advisory: int):
        found = read_vnnlib(PROPERTIES / "prop_7.vnnlib")
        scores = torch.ones(1, 5)
        scores[0, advisory] = -1
        assert bool(found.violated(torch.zeros(1, 5), scores)) == (advisory in (3, 4))

    def test_properties_2_and_3_name_opposite_scores_of_clear_of_conflict(self):
        """Property 2: it must not be maximal; property 3: it must not be minimal."""
        second, third = (read_vnnlib(PROPERTIES / f"prop_{number}.vnnlib") for number in (2, 3))
        inputs = [(one.cases[0].box.low + one.cases[0].box.high)[None] / 2 for one in (second, third)]
        most = torch.tensor([[1.0, 0, 0, 0, 0]], dtype=torch.float64)
        assert [bool(second.violated(inputs[0], scores)) for scores in (most, -most)] == [True, False]
        assert [bool(third.violated(inputs[1], scores)) for scores in (most, -most)] == [False, True]
