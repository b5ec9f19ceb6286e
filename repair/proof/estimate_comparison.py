"""What an estimate is held against: simple random sampling, and itself a thousand times over."""

import numpy as np

from repair.proof.estimate_design import Counts, Strata, pilot, second
from repair.proof.estimate_intervals import Asked, smooth_rates


def simple_random_queries(value: float, width: float, images: int, z: float) -> int:
    """Smallest simple random sample of that many images whose Wilson interval at `value` is no wider than `width`.

    Drawn without replacement: a sample of k counts as k / (1 - k / images), a census as exact.
    """
    low, high = 1, images
    while low < high:
        middle = (low + high) // 2
        effective = middle / (1 - middle / images)
        wide = 2 * z * np.sqrt(value * (1 - value) / effective + (z / effective / 2) ** 2) / (1 + z * z / effective)
        low, high = (middle + 1, high) if wide > width else (low, middle)
    return low


def simulate(strata: Strata, deviating: Counts, queries: int, repetitions: int, seed: int) -> Asked:
    """What `estimate` would ask and find, so many times side by side, were `deviating` (strata,) images to deviate."""
    generator, first = np.random.default_rng(seed), pilot(strata, queries)
    asked = np.broadcast_to(first, (repetitions, len(first)))
    early = generator.hypergeometric(np.broadcast_to(deviating, asked.shape), strata.sizes - deviating, asked)
    more = second(strata, first, smooth_rates(strata.ranks, asked, early), queries)
    left = deviating - early
    return Asked(
        strata.sizes,
        strata.ranks,
        asked,
        early,
        more,
        generator.hypergeometric(left, strata.sizes - asked - left, more),
    )
