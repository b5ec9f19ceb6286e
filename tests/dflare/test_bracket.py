"""Root finding for two models at once, on curves whose zeros are known in closed form; bisection must be slower."""

from collections.abc import Callable
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from dflare import bracket
from dflare.bracket import Bracket
from dflare.crossing import WHOLE

N, MOST = 300, 30
Margins = Callable[[Tensor], Tensor]
"""Position in [0, 1] (n,) -> both models' margins (n, 2) float64"""

CURVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cubic": lambda t, zero: zero**3 - t**3,
    "exponential": lambda t, zero: 1 - torch.exp(3 * (t - zero)),
    "decay": lambda t, zero: torch.exp(-4 * t) - torch.exp(-4 * zero),
    "logistic": lambda t, zero: torch.sigmoid(20 * (zero - t)) - 0.5,
}
"""Margins that fall along the way and vanish at `zero`."""


def zeros(n: int = N) -> Tensor:
    """Different zeros in [0.2, 0.8]."""
    return 0.2 + 0.6 * torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def strips(curve: str, width: float) -> Margins:
    """Two models whose zeros on N ways lie `width` apart."""
    return lambda t: torch.stack([CURVES[curve](t, zeros()), 0.7 * CURVES[curve](t, zeros() + width)], -1)


def opened(margins: Margins, n: int = N) -> Bracket:
    ends = torch.zeros(n, dtype=torch.float64)
    return bracket.opened(margins(ends), margins(ends + 1))


def middle(ways: Bracket) -> Tensor:
    """Bisection."""
    return (ways.low + ways.high) // 2


def probes_needed(margins: Margins, target: Callable[[Bracket], Tensor]) -> Tensor:
    """Questions until a position between the two zeros was asked, on N ways; at most `MOST` are asked."""
    ways, needed = opened(margins), torch.full((N,), MOST)
    for k in range(1, MOST):
        position = target(ways)
        answers = margins(position.double() / WHOLE)
        found = (answers > 0).any(-1) & (answers < 0).any(-1)
        needed[found] = needed[found].clamp(max=k)
        ways = bracket.told(ways, position, answers)
    return needed.double()


def one(low: int, high: int, at_low: list[float], at_high: list[float], **others: int) -> Bracket:
    """A bracket with that history; `past` is its low end."""
    whole = {"past": low, "side": 0, "probes": 0} | others
    numbers = {name: torch.tensor([number]) for name, number in whole.items()}
    low_margins, high_margins = (torch.tensor([values], dtype=torch.float64) for values in (at_low, at_high))
    return Bracket(
        low=torch.tensor([low]),
        high=torch.tensor([high]),
        at_low=low_margins,
        at_high=high_margins,
        at_past=low_margins,
        coarse=torch.zeros(1, 2, dtype=torch.bool),
        **numbers,
    )


def test_zeros_of_straight_margins_are_hit_by_the_second_probe():
    first, second = zeros(), zeros().flip(0)
    margins = lambda t: torch.stack([3 * (first - t), 0.1 * (second - t)], -1)  # noqa: E731
    ways = opened(margins)
    exact = (first + second) / 2 * WHOLE
    position = bracket.target(ways)
    seen = margins(position / WHOLE)
    hit = (seen > 0).any(-1) & (seen < 0).any(-1)  # the models deviate there already
    assert 0 < hit.sum() < len(hit)
    ways = bracket.told(ways, position, seen)
    assert ((bracket.target(ways) - exact).abs() <= 0.5 + 1e-6)[~hit].all()
    assert not ((middle(ways) - exact).abs() <= 0.5 + 1e-6).any()


def test_the_first_guess_interpolates_roots_of_the_margins():
    assert int(bracket.target(one(0, 1000, [1, 1], [-9, -9]))) == 250  # 1 : 3, a straight line would say 100
    assert int(bracket.target(one(0, 1000, [0, 0], [0, 0]))) == 500


@pytest.mark.parametrize("curve", CURVES)
def test_smooth_curves_are_solved_faster_than_any_constant_share_of_the_bracket_a_probe(curve):
    wide, thin = strips(curve, 1e-2), strips(curve, 1e-5)
    ours = [probes_needed(margins, bracket.target).mean() for margins in (wide, thin)]
    halving = [probes_needed(margins, middle).mean() for margins in (wide, thin)]
    assert ours[1] < 0.6 * halving[1]
    assert halving[1] - halving[0] > 0.9 * 9.97  # log2(1000): every probe of bisection gains one bit
    assert ours[1] - ours[0] < 2.5  # three more digits for two probes: superlinear


def test_estimates_that_get_stuck_are_slow():
    """The wrong case: straight lines alone, one end never moving (regula falsi)."""
    margins = strips("decay", 1e-5)
    ours = probes_needed(margins, bracket.target)

    def regula_falsi(ways: Bracket) -> Tensor:
        share = ways.at_low / (ways.at_low - ways.at_high)
        aim = (ways.low[:, None] + (ways.high - ways.low)[:, None] * share).mean(-1).round().long()
        return aim.clamp(ways.low + 1, ways.high - 1)

    assert probes_needed(margins, regula_falsi).mean() > 1.5 * ours.mean()


@pytest.mark.parametrize("curve", CURVES)
def test_what_is_told_keeps_a_positive_margin_at_low_and_none_at_high(curve):
    margins = strips(curve, 1e-9)  # thinner than a position: never found
    ways = opened(margins)
    for probes in range(12):
        assert (ways.at_low > 0).any(-1).all()
        assert not (ways.at_high > 0).any()
        assert (ways.probes == probes).all()
        assert torch.equal(ways.at_low, margins(ways.low.double() / WHOLE))
        assert torch.equal(ways.at_high, margins(ways.high.double() / WHOLE))
        assert torch.equal(ways.at_past, margins(ways.past.double() / WHOLE))
        position = bracket.target(ways)
        before = ways
        open_still = before.high - before.low >= 2
        ways = bracket.told(before, position, margins(position.double() / WHOLE))
        moved = (ways.low != before.low).long() + (ways.high != before.high)
        assert (moved[open_still] == 1).all()
        assert torch.equal(ways.past, torch.where(ways.low != before.low, before.low, before.high))
        if not bool((ways.high - ways.low >= 2).all()):
            break


@pytest.mark.parametrize(
    ("margins", "keeps"),
    [([1, 1], True), ([1, 0], True), ([0, 1], True), ([0, 0], False), ([0, -1], False), ([-1, -1], False)],
)
def test_a_tie_is_behind_the_boundary_unless_the_other_model_keeps_the_label(margins, keeps):
    ways = one(0, WHOLE, [1, 1], [-1, -1])
    after = bracket.told(ways, torch.tensor([100]), torch.tensor([margins], dtype=torch.float64))
    assert (int(after.low), int(after.high)) == ((100, WHOLE) if keeps else (0, 100))
    assert after.coarse.tolist() == [[margin == 0 for margin in margins]]
    assert bracket.told(after, torch.tensor([50]), torch.tensor([[2.0, 2]])).coarse.tolist() == after.coarse.tolist()


def test_targets_lie_strictly_inside_whatever_the_margins_are():
    generator, n = torch.Generator().manual_seed(1), 3000
    sizes = torch.tensor([0, 1e-12, 1e-3, 1, 1e4], dtype=torch.float64)
    at = [sizes[torch.randint(5, (n, 2), generator=generator)] for _ in range(3)]
    low = torch.randint(WHOLE - 2, (n,), generator=generator)
    spare = torch.randint(2, 300, (n,), generator=generator)
    high = torch.minimum(low + spare, torch.tensor(WHOLE))
    side = torch.randint(-4, 5, (n,), generator=generator)
    past = torch.where(side > 0, (low - spare).clamp(min=0), (high + spare).clamp(max=WHOLE))
    coarse = torch.rand(n, 2, generator=generator) < 0.3
    ways = Bracket(low, high, past, at[0], -at[1], torch.where(side[:, None] > 0, at[2], -at[2]), coarse, side, side)
    aim = bracket.target(ways)
    inside = high - low >= 2
    assert inside.sum() > 2900
    assert ((aim > low) & (aim < high))[inside].all()


def test_an_end_that_is_left_behind_too_often_makes_the_middle_be_asked():
    for side in range(-5, 6):
        ways = one(0, 1000, [1, 1], [-9, -9], side=side, probes=1)
        assert int(bracket.target(ways)) == (500 if abs(side) >= bracket.STUCK else 100)


def test_sides_count_the_probes_that_moved_the_same_end_by_little():
    ways, seen = one(0, WHOLE, [1, 1], [-1, -1]), []
    probes = ((10, 1.0), (20, 0.9), (25, 0.3), (28, 0.2), (90, -1.0), (80, -1.0), (70, -0.6), (60, -0.1), (30, 0.2))
    for position, margin in probes:
        ways = bracket.told(ways, torch.tensor([position]), torch.tensor([[margin, margin]]).double())
        seen.append((int(ways.side), int(ways.past)))
    assert [side for side, _ in seen] == [1, 2, 1, 2, -1, -2, -3, -1, 1]
    assert [past for _, past in seen] == [0, 10, 20, 25, WHOLE, 90, 80, 70, 28]
    assert int(ways.probes) == 9


def test_the_aim_lies_close_to_the_zero_that_is_known_where_the_other_model_is_coarse():
    fine = one(0, WHOLE, [1, 3], [-3, -1], probes=1)  # zeros at 1/4 and 3/4 of the way
    quarter, near = WHOLE // 4, bracket.NEAR
    assert int(bracket.target(fine)) == 2 * quarter
    for coarse, share in (([True, False], near), ([False, True], 1.0), ([True, True], None), ([False, False], None)):
        ways = Bracket(**{f.name: getattr(fine, f.name) for f in fields(fine)} | {"coarse": torch.tensor([coarse])})
        other = near if share == 1 else 1.0
        expected = 2 * quarter if share is None else (share * quarter + other * 3 * quarter) / (1 + near)
        assert abs(int(bracket.target(ways)) - expected) <= 0.5
    coarse_first = Bracket(
        **{f.name: getattr(fine, f.name) for f in fields(fine)} | {"coarse": torch.tensor([[True, False]])}
    )
    assert 3 * quarter - int(bracket.target(coarse_first)) < 0.05 * 2 * quarter


def test_at_asks_exactly_that_position():
    wanted = torch.tensor([1, 2, 77, WHOLE // 2, WHOLE - 1])
    assert torch.equal(bracket.target(bracket.at(wanted, 2)), wanted)
    assert bracket.target(bracket.at(torch.tensor([0, WHOLE]), 2)).tolist() == [1, WHOLE - 1]  # the ends are known


def test_around_gives_the_step_of_newton_for_each_model():
    position = torch.tensor([WHOLE // 2] * 3)
    margins = torch.tensor([[6.0, 2.0], [-5.0, 1.0], [-3.0, -9.0]]).double()
    slope = torch.tensor([[0.02, 0.01], [0.05, 0.01], [0.03, 0.03]]).double()
    ways = bracket.around(position, margins, slope)
    assert (bracket.target(ways) - position).tolist() == [(300 + 200) // 2, 0, (-100 - 300) // 2]
    assert ((ways.low < position) & (position < ways.high)).all()
    assert (ways.at_low >= 0).all()
    assert (ways.at_high <= 0).all()
    assert ways.probes.tolist() == [1, 1, 1]  # the answer at the position was one


def test_around_stays_on_the_way_and_inside_at_its_ends():
    position = torch.tensor([1, WHOLE - 1, 1, WHOLE - 1, WHOLE // 2])
    margins = torch.tensor([[-9.0, -9.0], [9.0, 9.0], [0.0, 0.0], [0.0, 0.0], [1e4, 1e4]]).double()
    ways = bracket.around(position, margins, torch.full((5, 2), 1e-9, dtype=torch.float64))
    aim = bracket.target(ways)
    assert (ways.low >= 0).all()
    assert (ways.high <= WHOLE).all()
    assert ((aim > ways.low) & (aim < ways.high)).all()


def test_brackets_know_nothing_of_their_neighbours():
    everyone, alone = opened(strips("logistic", 1e-4)), torch.tensor([7, 3, 299])
    some = Bracket(**{f.name: getattr(everyone, f.name)[alone] for f in fields(everyone)})
    for _ in range(8):
        aim = bracket.target(everyone)
        assert torch.equal(bracket.target(some), aim[alone])
        answers = strips("logistic", 1e-4)(aim.double() / WHOLE)
        everyone, some = bracket.told(everyone, aim, answers), bracket.told(some, aim[alone], answers[alone])
        for f in fields(everyone):
            assert torch.equal(getattr(everyone, f.name)[alone], getattr(some, f.name))
