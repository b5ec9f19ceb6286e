"""Bounds of a violation rate: by hand, against the binomial distribution, and as often right as they promise."""

import math

import pytest
import torch

from repair.properties.pac import Statement, samples_needed, state, violation_bound
from repair.properties.property import Box, Case, Polytope, Property


def test_without_violations_the_bound_is_the_rule_of_three():
    """95 %: about 3 / n; exactly 1 - 0.05^(1/n), a little below ln(20) / n."""
    assert violation_bound(0, 1000, 0.05) == pytest.approx(1 - 0.05 ** (1 / 1000), rel=1e-12)
    assert violation_bound(0, 1000, 0.05) < math.log(20) / 1000 == pytest.approx(3 / 1000, rel=0.002)
    assert violation_bound(0, 1, 0.25) == pytest.approx(0.75)


def test_the_samples_asked_for_keep_the_bound():
    for epsilon, delta in ((0.01, 0.05), (1e-4, 1e-3), (0.5, 0.5)):
        n = samples_needed(epsilon, delta)
        assert violation_bound(0, n, delta) <= epsilon * (1 + 1e-9)
        assert n == 1 or violation_bound(0, n - 1, delta) > epsilon
        assert n <= math.ceil(math.log(1 / delta) / epsilon)
    assert samples_needed(0.01, 0.05) == 299  # ln(0.05) / ln(0.99) = 298.07


@pytest.mark.parametrize(("k", "n", "delta"), [(1, 10, 0.05), (3, 50, 0.01), (9, 10, 0.1), (120, 4000, 0.05)])
def test_with_violations_the_bound_solves_the_binomial_equation(k: int, n: int, delta: float):
    p = violation_bound(k, n, delta)
    below = math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))
    assert below == pytest.approx(delta, rel=1e-9)
    assert k / n < p < 1


def test_textbook_values():
    """Clopper and Pearson's two-sided 95 % limits for 1 of 10 and 5 of 10: upper ends 0.4450 and 0.8129."""
    assert violation_bound(1, 10, 0.025) == pytest.approx(0.4450, abs=5e-5)
    assert violation_bound(5, 10, 0.025) == pytest.approx(0.8129, abs=5e-5)
    assert violation_bound(7, 7, 0.05) == 1.0


def test_bounds_hold_for_large_samples():
    assert violation_bound(500_000, 1_000_000, 1e-6) == pytest.approx(0.5 + 4.753 * 0.0005, rel=1e-4)  # normal


def test_the_bound_is_right_as_often_as_it_says_and_the_rate_itself_is_not():
    rate, n, delta = 0.02, 200, 0.1
    drawn = torch.distributions.Binomial(n, torch.tensor(rate, dtype=torch.float64))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        counts = [int(count) for count in drawn.sample((500,))]
    assert sum(violation_bound(k, n, delta) >= rate for k in counts) / 500 >= 0.9 - 0.03
    assert sum(k / n >= rate for k in counts) / 500 < 0.8


def test_a_network_is_judged_on_its_own_fresh_samples():
    """y = x on [0, 1] is unsafe from 0.75 on."""
    unsafe = Polytope(torch.tensor([[-1.0]]).double(), torch.tensor([-0.75]).double())
    wanted = Property("p", 1, 1, (Case(Box(torch.zeros(1).double(), torch.ones(1).double()), (unsafe,)),))
    found = state(torch.nn.Identity(), wanted, 30_000, 0.05, torch.Generator().manual_seed(0))
    assert found.rate == pytest.approx(0.25, abs=0.01)
    assert 0.25 < found.bound < 0.265
    none = state(lambda inputs: inputs * 0, wanted, 30_000, 0.05, torch.Generator().manual_seed(0))
    assert (none.violations, none.samples) == (0, 30_000)
    assert none.sentence() == (
        "0 of 30000 fresh samples violate the property: with confidence 95 % its violation rate is at most 9.99e-05"
    )
    assert none.as_dict() == {"samples": 30_000, "violations": 0, "delta": 0.05, "bound": none.bound, "rate": 0.0}


def test_impossible_numbers_are_refused():
    with pytest.raises(ValueError, match=r"epsilon must lie strictly between 0 and 1, got 0"):
        samples_needed(0, 0.5)
    with pytest.raises(ValueError, match=r"violations must lie in 0..samples of at least 1, got 3 of 2"):
        violation_bound(3, 2, 0.5)
    with pytest.raises(ValueError, match=r"delta must lie strictly between 0 and 1, got 1"):
        violation_bound(0, 2, 1)
    assert Statement(10, 5, 0.05, 0.8).rate == 0.5
