"""The generator against its published numbers, the laws of its draws, and what no draw may depend on."""

import math

import pytest
import torch

from dflare.random import Draws, Purpose

MASK = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15


def mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def fold(key: int, value: int) -> int:
    return mix(key ^ mix((value + GAMMA) & MASK))


def unsigned(words: torch.Tensor) -> list[int]:
    return [word & MASK for word in words.flatten().tolist()]


def many(n: int, step: int = 1, seed: int = 0) -> Draws:
    return Draws.of(seed, torch.arange(n), torch.full((n,), step))


def kolmogorov(sample: torch.Tensor, cdf: torch.Tensor) -> float:
    """sqrt(n) * sup |empirical - cdf|, given at the sorted sample; above 2.2 with probability 1e-4 if the law holds."""
    n = len(sample)
    return math.sqrt(n) * float((cdf - (torch.arange(n, dtype=torch.float64) + 0.5) / n).abs().max())


def chi_square(counts: torch.Tensor, shares: torch.Tensor) -> float:
    """Pearson's statistic in standard deviations above its mean; above 5 practically never when the law holds."""
    expected = shares * counts.sum()
    freedom = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom))


@pytest.mark.parametrize(
    ("seed", "published"),
    [
        (1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]),
        (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]),
    ],
)
def test_words_are_the_published_sequence_of_splitmix64(seed, published):
    assert unsigned(Draws(torch.tensor([seed])).words(len(published))) == published


def test_words_are_splitmix64_for_any_key():
    keys = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 123456789])
    expected = [mix((key + (i + 1) * GAMMA) & MASK) for key in keys.tolist() for i in range(9)]
    assert unsigned(Draws(keys).words(9)) == expected


@pytest.mark.parametrize("seed", [0, 7, -3, 2**64 - 1, 2**63])
def test_keys_fold_run_seed_id_step_and_purpose_in_64_bit_integers(seed):
    ids, steps = torch.tensor([0, 5, 2**63 - 1]), torch.tensor([0, 1, 1000])
    draws = Draws.of(seed, ids, steps).purpose(Purpose.VALUE)
    expected = [fold(fold(fold(mix(seed & MASK), i), s), 6) for i, s in zip(ids.tolist(), steps.tolist(), strict=True)]
    assert unsigned(draws.keys) == expected


def test_uniforms_and_integers_are_the_top_bits_of_each_half_word():
    draws = many(5)
    halves = [half for word in unsigned(draws.words(3)) for half in (word & 0xFFFFFFFF, word >> 32)]
    assert draws.uniform(2, 3).flatten().tolist() == [(half >> 8) / 2**24 for half in halves]
    assert draws.integers(7, 6).flatten().tolist() == [half * 7 >> 32 for half in halves]


def test_normals_are_quantiles_of_sixteen_bits_each():
    draws = many(3)
    bits = [word >> (16 * k) & 0xFFFF for word in unsigned(draws.words(2)) for k in range(4)]
    exact = torch.special.ndtri((torch.tensor(bits, dtype=torch.float64) + 0.5) / 65536)
    assert torch.equal(draws.normal(8).flatten(), exact.float())


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3, 5)])
def test_draws_have_one_row_a_chain_and_the_shape_asked_for(shape):
    draws = many(4)
    assert draws.uniform(*shape).shape == draws.integers(9, *shape).shape == draws.normal(*shape).shape == (4, *shape)
    assert draws.uniform(*shape).dtype == draws.normal(*shape).dtype == torch.float32
    assert draws.integers(9, *shape).dtype == torch.int64


@pytest.mark.parametrize(("bent", "holds"), [(1.0, True), (1.02, False)])
def test_uniforms_are_uniform_and_a_bent_generator_is_caught(bent, holds):
    sample = many(1000).uniform(200).flatten().double() ** bent
    assert (kolmogorov(sample, sample.sort().values) < 2.2) is holds
    assert sample.min() >= 0
    assert sample.max() < 1


def test_uniforms_have_mean_a_half_and_variance_a_twelfth():
    sample = many(1000).uniform(1000).double()
    assert abs(sample.mean() - 1 / 2) < 5 * math.sqrt(1 / 12 / 1e6)
    assert abs(sample.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / 1e6)  # fourth moment 1/80, minus (1/12)^2


def test_normals_are_normal_and_a_sum_of_uniforms_is_caught():
    sample = many(1000).normal(200).flatten().double()
    sums = (many(1000).uniform(12, 200).sum(1) - 6).flatten().double()
    assert abs(sample.mean()) < 5 / math.sqrt(2e5)
    assert abs(sample.var() - 1) < 5 * math.sqrt(2 / 2e5)
    expected = math.erfc(3 / math.sqrt(2))
    for draws, holds in ((sample, True), (sums, False)):
        outside = float((draws.abs() > 3).double().mean())
        assert (abs(outside - expected) < 5 * math.sqrt(expected / 2e5)) is holds
    assert kolmogorov(sample, torch.special.ndtr(sample.sort().values)) < 2.2
    assert kolmogorov(1.02 * sample, torch.special.ndtr(1.02 * sample.sort().values)) > 2.2


@pytest.mark.parametrize("high", [2, 7, 10, 256])
def test_integers_are_equally_likely(high):
    counts = torch.bincount(many(1000).integers(high, 200).flatten(), minlength=high).double()
    assert chi_square(counts, torch.full((high,), 1 / high)) < 5


def test_integers_by_remainder_would_be_caught():
    remainders = (many(1000).words(200) & 15) % 7
    counts = torch.bincount(remainders.flatten(), minlength=7).double()
    assert chi_square(counts, torch.full((7,), 1 / 7)) > 5


def related(n: int) -> dict[str, Draws]:
    """Streams that differ from `many(n)` in one respect each."""
    base = many(n)
    return {
        "seed": many(n, seed=1),
        "negative seed": many(n, seed=-1),
        "step": many(n, step=2),
        "id": base[torch.arange(n).roll(1)],
        "purpose": base.purpose(Purpose.FIRST),
        "other purpose": base.purpose(Purpose.VALUE),
        "purpose of a purpose": base.purpose(Purpose.FIRST).purpose(Purpose.VALUE),
    }


@pytest.mark.parametrize("respect", list(related(1)))
def test_streams_that_differ_in_one_respect_are_uncorrelated(respect):
    n = 20_000
    base, other = many(n).uniform(4), related(n)[respect].uniform(4)
    for a, b in ((base, other), (base[:, 1:], other[:, :-1])):  # in place, and one position on
        both = torch.stack([a.flatten(), b.flatten()]).double()
        assert abs(torch.corrcoef(both)[0, 1]) < 5 / math.sqrt(both.shape[1])
    same = torch.stack([base.flatten(), many(n).uniform(4).flatten()])
    assert torch.corrcoef(same)[0, 1] > 0.999  # the check would notice a shared stream


def test_no_two_of_many_keys_are_equal_where_adding_them_up_would_collide():
    ids, steps = torch.arange(300).repeat_interleave(300), torch.arange(300).repeat(300)
    draws = Draws.of(0, ids, steps)
    keys = torch.stack([draws.purpose(purpose).keys for purpose in Purpose])
    assert len(keys.unique()) == keys.numel()
    assert len((ids + steps).unique()) < 600


@pytest.mark.parametrize("bit", [0, 1, 31, 62])
def test_one_bit_of_the_id_turns_half_the_bits_of_a_word(bit):
    ids = torch.arange(2000)
    words = [Draws.of(0, number, torch.ones_like(ids)).words(1) for number in (ids, ids ^ (1 << bit))]
    turned = sum(word.bit_count() for word in unsigned(words[0] ^ words[1]))
    assert abs(turned - 64_000) < 5 * math.sqrt(2000 * 64 / 4)


def test_a_draw_is_a_pure_function_of_its_keys():
    draws = many(50)
    alone = torch.cat([draws[torch.tensor([row])].normal(7) for row in range(50)])
    assert torch.equal(draws.normal(7), alone)
    assert torch.equal(draws.normal(7), draws.normal(7))
    assert torch.equal(draws.words(9)[:, :4], draws.words(4))
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draws[order].integers(256, 3, 3), draws.integers(256, 3, 3)[order])


def test_draws_leave_the_global_generators_alone():
    before = torch.get_rng_state()
    many(10).normal(10)
    assert torch.equal(torch.get_rng_state(), before)
