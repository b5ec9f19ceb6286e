"""Probably approximately correct statements: what fresh samples say about a violation rate.

The rate is the share of inputs, drawn as `Property.sample` draws them, that violate the property. A statement holds
with confidence 1 - delta over the draw of the samples, which must be fresh: no repair and no choice has seen them.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from repair.properties.property import Property

BATCH = 20_000
"""Inputs that are drawn and asked at once."""

HALVINGS = 200
"""Of the interval in which the bound lies: more than float64 can tell apart."""


@dataclass(frozen=True)
class Statement:
    """`rate <= bound` with confidence 1 - delta, from `violations` among `samples` fresh inputs."""

    samples: int
    violations: int
    delta: float
    bound: float

    @property
    def rate(self) -> float:
        """The share of violations among the samples."""
        return self.violations / self.samples

    def sentence(self) -> str:
        """The statement in words."""
        return (
            f"{self.violations} of {self.samples} fresh samples violate the property: with confidence "
            f"{100 * (1 - self.delta):g} % its violation rate is at most {self.bound:.3g}"
        )

    def as_dict(self) -> dict[str, float]:
        """Plain numbers for JSON, with the rate."""
        return {**asdict(self), "rate": self.rate}


def samples_needed(epsilon: float, delta: float) -> int:
    """The least n with (1 - epsilon)^n <= delta: none of n samples violating bounds the rate by epsilon.

    It is at most ln(1/delta)/epsilon, rounded up. Raises `ValueError` unless both lie strictly between 0 and 1.
    """
    _check_shares(epsilon=epsilon, delta=delta)
    return math.ceil(math.log(delta) / math.log1p(-epsilon))


def violation_bound(violations: int, samples: int, delta: float) -> float:
    """The upper end of the one-sided interval of C. Clopper and E. Pearson (Biometrika 26, 1934), in [0, 1].

    The rate p at which `violations` or fewer among `samples` have probability delta. For none it is
    1 - delta^(1/n) <= ln(1/delta)/n; it is exact, so it holds for any rate and any n. Raises `ValueError` for
    violations outside 0..samples, no samples, or delta outside (0, 1).
    """
    _check_shares(delta=delta)
    if samples < 1 or not 0 <= violations <= samples:
        raise ValueError(f"violations must lie in 0..samples of at least 1, got {violations} of {samples}")
    if violations == samples:
        return 1.0
    if violations == 0:
        return -math.expm1(math.log(delta) / samples)
    low, high = violations / samples, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _at_most(violations, samples, middle) > delta:
            low = middle
        else:
            high = middle
    return high


def state(
    network: Callable[[Tensor], Tensor], wanted: Property, samples: int, delta: float, generator: torch.Generator
) -> Statement:
    """The statement about a network from that many fresh uniform samples of the property's boxes.

    Use a generator of its own seed; the same seed for the repaired and the unrepaired network asks both the same.
    """
    violations = 0
    for start in range(0, samples, BATCH):
        inputs = wanted.sample(min(BATCH, samples - start), generator)
        with torch.no_grad():
            violations += int(wanted.violated(inputs, network(inputs)).sum())
    return Statement(samples, violations, delta, violation_bound(violations, samples, delta))


def _at_most(k: int, n: int, p: float) -> float:
    """P(Binomial(n, p) <= k) for 0 < p < 1, summed from its largest term downwards."""
    if p >= 1:
        return 0.0
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
    total, ratio = 0.0, 1.0
    for i in range(k, -1, -1):
        total += ratio
        ratio *= i * (1 - p) / ((n - i + 1) * p)
        if ratio < 1e-18 * total:
            break
    return math.exp(log) * total


def _check_shares(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 < value < 1:
            raise ValueError(f"{name} must lie strictly between 0 and 1, got {value}")
