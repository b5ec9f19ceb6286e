"""Known answers, statistical laws with a wrong case that must fail, and the placebo rule."""

import math
import time

import numpy as np
import pytest

from repair.proof import metrics
from repair.proof.intervals import Z, effective_size, paired_difference
from repair.proof.metrics import Figure, beats_placebo, mcnemar, paired_rates, rate
from repair.proof.verdict import percent


def ends(figure: Figure) -> tuple[float, float]:
    assert figure.low is not None
    assert figure.high is not None
    return figure.low, figure.high


def inside(truth: float, interval: tuple[float, float]) -> bool:
    return interval[0] <= truth <= interval[1]


# Newcombe (1998), Two-sided confidence intervals for the single proportion, table I, method 3
@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_is_the_published_one(hits: int, n: int, low: float, high: float) -> None:
    figure = rate(hits, n)
    assert (figure.value, figure.n) == (hits / n, n)
    assert ends(figure) == pytest.approx((low, high), abs=5e-5)


def test_a_rate_of_nothing_has_no_value() -> None:
    assert rate(0, 0).as_dict() == {"value": None, "low": None, "high": None, "n": 0}


def test_a_rate_of_all_or_none_reaches_its_end_exactly() -> None:
    assert rate(0, 7).low == 0.0
    assert rate(7, 7).high == 1.0
    assert rate(7, 7).low == pytest.approx(7 / (7 + Z * Z))


@pytest.mark.parametrize(("hits", "n"), [(3, 2), (-1, 2)])
def test_a_rate_refuses_impossible_counts(hits: int, n: int) -> None:
    with pytest.raises(ValueError, match="hits must lie in"):
        rate(hits, n)


def exact_coverage(interval: object, truth: float, n: int) -> float:
    """Probability that the interval of Binomial(n, truth) hits covers the truth, summed exactly."""
    return sum(
        math.comb(n, k) * truth**k * (1 - truth) ** (n - k)
        for k in range(n + 1)
        if inside(truth, interval(k, n))  # type: ignore[operator]
    )


def test_wilson_covers_a_rare_rate_and_wald_does_not() -> None:
    def wald(hits: int, n: int) -> tuple[float, float]:
        half = Z * math.sqrt(hits / n * (1 - hits / n) / n)
        return hits / n - half, hits / n + half

    assert exact_coverage(lambda k, n: ends(rate(k, n)), 0.02, 50) > 0.92
    assert exact_coverage(wald, 0.02, 50) < 0.70  # the wrong case


def test_groups_of_one_change_nothing_and_copies_count_once() -> None:
    mask = np.arange(40) % 8 == 0
    assert metrics.share(mask, np.arange(40)).high == pytest.approx(rate(5, 40).high, rel=0.02)
    copies, groups = np.repeat(mask, 25), np.repeat(np.arange(40), 25)
    assert effective_size(copies.astype(float), groups) == pytest.approx(39, abs=0.1)  # G - 1: one mean is estimated
    assert metrics.share(copies, groups).high == pytest.approx(rate(5, 40).high, rel=0.02)
    assert metrics.share(copies, groups).n == 1000


def test_images_of_one_seed_need_the_grouped_interval() -> None:
    generator = np.random.default_rng(1)
    groups = np.repeat(np.arange(200), 20)
    grouped = naive = 0
    for _ in range(300):
        chance = generator.beta(0.5, 4.5, size=200)  # mean 0.1: some seeds deviate often, most never
        mask = generator.random(4000) < np.repeat(chance, 20)
        grouped += inside(0.1, ends(metrics.share(mask, groups)))
        naive += inside(0.1, ends(metrics.share(mask)))
    assert grouped / 300 > 0.91
    assert naive / 300 < 0.75  # the wrong case


# Newcombe (1998), Interval estimation for the difference between independent proportions, table II, method 10
@pytest.mark.parametrize(
    ("first", "second", "low", "high"), [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090)]
)
def test_difference_of_rates_is_the_published_one(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    assert ends(metrics.difference(rate(*first), rate(*second))) == pytest.approx((low, high), abs=5e-5)


def test_a_difference_with_nothing_is_nothing() -> None:
    assert metrics.difference(rate(3, 5), rate(0, 0)).value is None


def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(1, 1) == 1.0
    assert mcnemar(0, 5) == 2 / 32
    assert mcnemar(1, 7) == mcnemar(7, 1) == 2 * (1 + 8) / 256
    assert mcnemar(5, 5) == 1.0
    with pytest.raises(ValueError, match="negative"):
        mcnemar(-1, 2)


def test_mcnemar_of_ten_thousand_changes_is_exact_and_quick() -> None:
    start = time.perf_counter()
    p = mcnemar(5000 - 98, 5000 + 98)  # 1.96 standard deviations
    assert time.perf_counter() - start < 1
    assert p == pytest.approx(0.0512, abs=2e-4)  # 0.05 with the continuity of a count


def test_paired_rates_by_hand() -> None:
    before = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=bool)
    after = np.array([1, 1, 1, 0, 1, 1, 1, 0, 0, 0], dtype=bool)
    found = paired_rates(before, after)
    assert (found.broken, found.fixed) == (rate(1, 10), rate(3, 10))
    assert found.net.value == pytest.approx(0.2)
    assert found.mcnemar_p == 2 * (1 + 4) / 16


def test_unchanged_judgements_break_and_fix_nothing() -> None:
    agreed = np.arange(50) % 3 > 0
    broken, fixed, net, p = paired_rates(agreed, agreed)
    assert (broken.value, fixed.value, net.value, p) == (0, 0, 0, 1)
    half = Z * Z / (50 + Z * Z)  # closed form of Tango's interval without changes
    assert ends(net) == pytest.approx((-half, half))


def test_paired_rates_of_nothing_and_of_different_images() -> None:
    nothing = np.zeros(0, dtype=bool)
    assert paired_rates(nothing, nothing).net.value is None
    with pytest.raises(ValueError, match="same images"):
        paired_rates(nothing, np.ones(1, dtype=bool))


def test_paired_interval_excludes_zero_exactly_when_the_score_test_does() -> None:
    for gained in range(25):
        for lost in range(25):
            low, high = paired_difference(gained, lost, 60)
            assert -1 <= low <= (gained - lost) / 60 + 1e-12
            assert high >= (gained - lost) / 60 - 1e-12
            significant = (gained - lost) ** 2 > Z * Z * (gained + lost)
            assert significant == (low > 1e-12 or high < -1e-12)


def test_paired_interval_covers_rare_changes_and_wald_does_not() -> None:
    # one in a hundred is fixed and none broken: 37 % of the samples show no change, where Wald's interval is [0, 0]
    generator, n, truth = np.random.default_rng(0), 100, 0.01
    counts = generator.multinomial(n, [truth, 0, 1 - truth], size=2000)
    score = wald = 0
    for gained, lost, _ in counts:
        score += inside(truth, paired_difference(gained, lost, n))
        half = Z * math.sqrt(gained + lost - (gained - lost) ** 2 / n) / n
        wald += inside(truth, ((gained - lost) / n - half, (gained - lost) / n + half))
    assert score / 2000 > 0.93
    assert wald / 2000 < 0.70  # the wrong case


def test_grouped_changes_do_not_pass_for_independent_ones() -> None:
    generator = np.random.default_rng(2)
    groups = np.repeat(np.arange(100), 20)
    grouped = naive = 0
    for _ in range(200):  # no net effect, but the images of a seed change together
        flips = np.repeat(generator.integers(-1, 2, size=100), 20)
        before, after = flips < 0, flips > 0
        grouped += paired_rates(before, after, groups).mcnemar_p < 0.05
        naive += paired_rates(before, after).mcnemar_p < 0.05
    assert grouped / 200 < 0.10
    assert naive / 200 > 0.5  # the wrong case


def test_a_ratio_of_identical_queries_is_exactly_one() -> None:
    queries = np.random.default_rng(0).integers(1, 1000, size=200)
    assert metrics.ratio_of_means(queries, queries, seed=0).as_dict() == {"value": 1, "low": 1, "high": 1, "n": 200}


def test_a_ratio_of_scaled_queries_is_the_factor_because_resamples_are_paired() -> None:
    queries = np.random.default_rng(0).integers(1, 100, size=50)
    figure = metrics.ratio_of_means(3 * queries, queries, seed=0)
    assert (figure.value, *ends(figure)) == pytest.approx((3, 3, 3))


def test_a_ratio_over_zero_has_no_value() -> None:
    assert metrics.ratio_of_means([1, 2], [0, 0], seed=0).value is None


def test_bootstrap_repeats_with_its_seed_and_not_with_another() -> None:
    values = np.random.default_rng(3).exponential(size=60)
    assert metrics.mean(values, seed=1) == metrics.mean(values, seed=1)
    assert metrics.mean(values, seed=1) != metrics.mean(values, seed=2)


def test_bootstrap_of_the_mean_covers_and_a_half_as_long_interval_does_not() -> None:
    generator = np.random.default_rng(4)
    full = half = 0
    for seed in range(200):
        figure = metrics.mean(generator.exponential(size=80), seed)
        low, high = ends(figure)
        full += inside(1.0, (low, high))
        half += inside(1.0, ((figure.value + low) / 2, (figure.value + high) / 2))
    assert full / 200 > 0.89
    assert half / 200 < 0.80  # the wrong case


def test_a_paired_difference_is_sharper_than_its_parts() -> None:
    before = np.random.default_rng(5).normal(100, 30, size=50)
    low, high = ends(metrics.difference_of_means(before + 1, before, seed=0))
    assert low == pytest.approx(1)
    assert high == pytest.approx(1)


def test_one_value_has_no_interval_and_none_has_no_value() -> None:
    assert metrics.mean([5.0], seed=0).as_dict() == {"value": 5, "low": None, "high": None, "n": 1}
    assert metrics.mean([], seed=0) == metrics.NOTHING


def test_bootstrap_refuses_what_it_cannot_pair() -> None:
    with pytest.raises(ValueError, match="one shape"):
        metrics.ratio_of_means([1, 2], [1, 2, 3], seed=0)
    with pytest.raises(ValueError, match="NaN"):
        metrics.mean([float("nan")], seed=0)


def test_queries_summary_by_hand() -> None:
    queries = [10, 20, 30, 40, 100, 100]
    summary = metrics.queries_summary(queries, np.array([1, 1, 1, 1, 0, 0], dtype=bool), 100, seed=0)
    assert summary["mean"].value == 50  # (10 + 20 + 30 + 40 + 100 + 100) / 6
    assert summary["median"].value == 30  # the third of six
    assert summary["p95"].value is None  # beyond the found share of 4 / 6
    assert summary["censored"] == 2


def test_unfound_chains_count_as_the_budget_whatever_they_asked() -> None:
    assert metrics.restricted_queries([3, 7], np.array([True, False]), 100).tolist() == [3, 100]


def test_a_quantile_is_null_exactly_beyond_the_found_share() -> None:
    values, censored = np.arange(1, 21), np.arange(1, 21) > 19
    assert metrics.quantile(values, 0.95, censored, seed=0).value == 19
    assert metrics.quantile(values, 0.951, censored, seed=0).value is None
    assert metrics.quantile(values, 0.95, censored, seed=0).high is None  # an open end
    with pytest.raises(ValueError, match="q must lie"):
        metrics.quantile(values, 0, censored, seed=0)


def test_the_median_covers_its_truth() -> None:
    generator = np.random.default_rng(6)
    covered = 0
    for seed in range(200):
        values = generator.exponential(size=101)
        covered += inside(math.log(2), ends(metrics.quantile(values, 0.5, np.zeros(101, dtype=bool), seed)))
    assert covered / 200 > 0.90


def test_plain_leaves_what_json_knows() -> None:
    found = metrics.plain(
        {"a": rate(1, 2), "b": (np.int64(3), math.nan), "c": np.array([1.5]), "d": Figure(1, 1, math.inf, 1)}
    )
    assert found["a"]["n"] == 2
    assert found["b"] == [3, None]
    assert found["c"] == [1.5]
    assert found["d"]["high"] is None


def trial(generalization: float, probe: float, ratio: float, drawdown: float = 0.005, n: int = 1000) -> dict:
    return {
        "repair": {
            "generalization": rate(round(generalization * n), n).as_dict(),
            "probe_after": rate(round(probe * 50_000), 50_000).as_dict(),
            "drawdown": rate(round(drawdown * 10_000), 10_000).as_dict(),
        },
        "search": {"queries_ratio": Figure(ratio, 0.9 * ratio, 1.1 * ratio, 500).as_dict()},
    }


PLACEBO = trial(0.31, 0.0102, 1.0)


@pytest.mark.parametrize(
    ("repair", "verdict", "words"),
    [
        (trial(0.742, 0.0102, 1.0), True, "it repairs 74.2 % of held-out triggers against the placebo's 31.0 %."),
        (trial(0.31, 0.002, 1.0), True, "deviates on 0.20 % of the probe images against the placebo's 1.02 %"),
        (trial(0.31, 0.0102, 3.0), True, "multiplies the queries of a fresh search by 3.00 against the placebo's 1.00"),
        (trial(0.742, 0.002, 1.0), True, " and deviates on"),
        (PLACEBO, False, "chance explains such differences"),
        (trial(0.33, 0.0101, 1.05), False, "chance explains"),
        (trial(0.742, 0.02, 1.0), False, "is worse, it deviates on 2.00 % of"),
        (trial(0.742, 0.0102, 1.0, drawdown=0.02), False, "it breaks 2.00 % of the clean images against"),
        (trial(0.742, 0.0102, 1.0, drawdown=0.02), False, "although it repairs 74.2 %"),
        (trial(0.2, 0.0102, 1.0), False, "is worse, it repairs 20.0 % of held-out triggers"),
    ],
)
def test_the_placebo_rule(repair: dict, verdict: bool, words: str) -> None:
    found, sentence = beats_placebo(repair, PLACEBO)
    assert found is verdict
    assert words in sentence


def with_other(outcome: dict, generalization: float, n: int = 1000) -> dict:
    """The same with held-out triggers of another search strategy."""
    other = {"generalization_other": rate(round(generalization * n), n).as_dict()}
    return {**outcome, "repair": {**outcome["repair"], **other}}


def test_triggers_of_another_search_may_win_too_and_may_do_harm() -> None:
    better, worse = with_other(PLACEBO, 0.6), with_other(trial(0.742, 0.0102, 1.0), 0.2)
    verdict, words = beats_placebo(better, with_other(PLACEBO, 0.3))
    assert verdict is True
    assert "it repairs 60.0 % of those of another search against the placebo's 30.0 %." in words
    verdict, words = beats_placebo(worse, with_other(PLACEBO, 0.3))
    assert verdict is False
    assert "it is worse, it repairs 20.0 % of those of another search" in words
    assert "although it repairs 74.2 %" in words


def test_each_chance_that_can_be_compared_makes_winning_harder_and_no_other_does() -> None:
    """The widest interval that still wins is 95 % by one, 97.5 % by two … 98.75 % by four chances."""
    from statistics import NormalDist

    def paired(chances: int, by: float) -> dict:
        """A gain in the probe whose interval at the corrected confidence ends `by` above 0."""
        wide = NormalDist().inv_cdf(1 - 0.05 / 2 / chances) / Z
        half = (0.01 - by) / wide
        return {"probe_after": Figure(-0.01, -0.01 - half, -0.01 + half, 1000)}

    only = {"repair": {"probe_after": PLACEBO["repair"]["probe_after"]}, "search": None}
    nothing = {"generalization_other": rate(0, 0).as_dict()}  # a search that found nothing is no chance
    two = {"repair": {**only["repair"], **nothing, "generalization": PLACEBO["repair"]["generalization"]}}
    for chances, outcome in ((1, only), (2, two), (3, PLACEBO), (4, with_other(PLACEBO, 0.3))):
        assert beats_placebo(outcome, outcome, paired(chances, by=1e-6))[0] is True
        assert beats_placebo(outcome, outcome, paired(chances, by=-1e-6))[0] is False


@pytest.mark.parametrize(("p", "verdict"), [(0.016, True), (0.017, False), (1.0, False)])
def test_a_better_probe_must_pass_the_paired_test_of_the_same_images(p: float, verdict: bool) -> None:
    """At 5 % by three chances."""
    assert beats_placebo(trial(0.31, 0.002, 1.0), PLACEBO, {"probe_mcnemar_p": p})[0] is verdict


def from_before(outcome: dict, probe_before: float, p: float | None = None) -> dict:
    """The same with what the model before did on the probe, and McNemar's test of the change."""
    figures = {"probe_before": rate(round(probe_before * 50_000), 50_000).as_dict(), "probe_mcnemar_p": p}
    return {**outcome, "repair": {**outcome["repair"], **figures}}


@pytest.mark.parametrize(
    ("before", "p", "verdict"),
    [
        (0.0051, 1e-9, False),  # twice as often as before
        (0.0051, None, False),  # the same, by the interval of the difference
        (0.0101, None, True),  # a hair more, by chance
        (0.0101, 0.4, True),
        (0.0101, 0.04, False),  # a hair more, but the single images say that it is no chance
        (0.02, 1e-9, True),  # better than before
    ],
)
def test_a_probe_that_got_worse_is_no_success_even_beside_a_worse_placebo(
    before: float, p: float | None, verdict: bool
) -> None:
    repair, placebo = from_before(trial(0.742, 0.0102, 1.0), before, p), trial(0.31, 0.03, 1.0)
    found, words = beats_placebo(repair, placebo)
    assert found is verdict
    said = "no success: it deviates on 1.02 % of the probe images, the model before it on"
    assert (said in words) is not verdict
    if not verdict:
        assert "although it repairs 74.2 % of held-out triggers" in words
        assert ("McNemar" in words) is (p is not None)


def test_who_is_worse_than_before_and_than_the_placebo_is_told_both() -> None:
    words = beats_placebo(from_before(trial(0.2, 0.02, 1.0), 0.01, 1e-9), PLACEBO)[1]
    assert words.startswith("The repair is no success: it deviates on 2.00 % of the probe images, the model before it")
    assert "and is worse than its placebo, it repairs 20.0 % of held-out triggers" in words


def test_without_a_placebo_the_verdict_is_unknown() -> None:
    assert beats_placebo(PLACEBO, None) == (
        None,
        "Whether the repair beats its placebo is not known: no placebo was run.",
    )
    assert beats_placebo(PLACEBO, {"repair": {}, "search": None})[0] is None


def test_paired_evidence_decides_where_the_rates_alone_cannot() -> None:
    repair = trial(0.35, 0.0102, 1.0)
    assert beats_placebo(repair, PLACEBO)[0] is False
    generator = np.random.default_rng(0)
    placebo_agrees = generator.random(1000) < 0.31
    repair_agrees = placebo_agrees | (generator.random(1000) < 0.06)  # the same images, and a few more
    paired = {"generalization": paired_rates(placebo_agrees, repair_agrees).net}
    assert beats_placebo(repair, PLACEBO, paired)[0] is True


def test_two_placebos_seldom_beat_each_other() -> None:
    generator, wins = np.random.default_rng(7), 0
    for _ in range(400):
        first, second = (
            trial(generator.binomial(300, 0.6) / 300, generator.binomial(50_000, 0.01) / 50_000, 1.0, n=300)
            for _ in range(2)
        )
        wins += beats_placebo(first, second)[0] is True
    assert wins / 400 < 0.05


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "–"), (0, "0 %"), (0.742, "74.2 %"), (0.0102, "1.02 %"), (0.00004, "0.0040 %"), (-0.012, "-1.20 %")],
)
def test_percent(value: float | None, words: str) -> None:
    assert percent(value) == words
