"""Random numbers that belong to a chain: a counter-based generator, vectorised over chains.

Every draw is a pure function of (run seed, seed image's id, step, purpose, position), so a chain's fate does not
depend on who else is in its batch, on how many workers run, or on a restart. The generator is SplitMix64 (Steele,
Lea and Flood, 2014): word i of key k is mix(k + (i + 1) * gamma). All of it is 64-bit integer arithmetic, the same
on every device; normals come from a table of 65,536 quantiles.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cache

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15 - 2**64  # 2^64 / golden ratio, as int64
_MULTIPLY_1 = 0xBF58476D1CE4E5B9 - 2**64
_MULTIPLY_2 = 0x94D049BB133111EB - 2**64


class Purpose(IntEnum):
    """What a draw is for; draws for different purposes are independent."""

    FIRST = 0  # the mutation that a chain starts from
    TIES = 1  # the order of mutations with equal scores
    PROPOSAL = 2
    ACCEPTANCE = 3
    STRENGTH = 4  # kernel sizes, noise levels, how many pixels
    PLACE = 5  # which pixels
    VALUE = 6  # noise, or the pixels' new values
    STRIDE = 7  # how many mutations in a row
    NOISE = 8  # faint noise over a whole way
    DETOUR = 9  # small changes across a way, in shrinking
    SUBSTEP = 1000  # and this plus k: what the k-th mutation in a row draws


@dataclass(frozen=True)
class Draws:
    """A stream of random numbers for each of n chains; `keys` is (n,) int64. Drawing does not change the stream."""

    keys: Tensor

    @classmethod
    def of(cls, seed: int, ids: Tensor, step: Tensor) -> "Draws":
        """The streams of chains with seed images `ids` (n,) at their steps (n,) in a run with that seed."""
        run = torch.full((), _signed(seed), dtype=torch.int64, device=ids.device)
        return cls(_fold(_fold(_mix(run), ids), step.to(torch.int64)))

    def purpose(self, purpose: int) -> "Draws":
        """The streams kept for one purpose, independent of those for others."""
        return Draws(_fold(self.keys, torch.full_like(self.keys, int(purpose))))

    def __getitem__(self, rows: Tensor) -> "Draws":
        return Draws(self.keys[rows])

    def words(self, count: int) -> Tensor:
        """64 random bits each, (n, count) int64."""
        counter = torch.arange(1, count + 1, dtype=torch.int64, device=self.keys.device) * _GAMMA
        return _mix(self.keys[:, None] + counter)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0, 1) in steps of 2^-24, float32 (n, *shape)."""
        return ((self._halves(shape) >> 8) & 0xFFFFFF).float() * 2.0**-24

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform on 0 … high - 1 up to a bias of high / 2^32, int64 (n, *shape)."""
        return ((self._halves(shape).to(torch.int64) & 0xFFFFFFFF) * high) >> 32

    def normal(self, *shape: int) -> Tensor:
        """Standard normal in 65,536 steps of equal probability, |z| <= 4.33, float32 (n, *shape)."""
        size = _size(shape)
        index = self.words((size + 3) // 4).view(torch.int16)[:, :size].to(torch.int32) & 0xFFFF
        return _normal_table(self.keys.device)[index].view(-1, *shape)

    def _halves(self, shape: tuple[int, ...]) -> Tensor:
        size = _size(shape)
        return self.words((size + 1) // 2).view(torch.int32)[:, :size].reshape(-1, *shape)


@cache
def _normal_table(device: torch.device) -> Tensor:
    steps = (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16
    return torch.special.ndtri(steps).float().to(device)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _MULTIPLY_1
    z = (z ^ _shift(z, 27)) * _MULTIPLY_2
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical shift right; `>>` alone repeats the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _fold(key: Tensor, value: Tensor) -> Tensor:
    return _mix(key ^ _mix(value + _GAMMA))


def _signed(number: int) -> int:
    number &= 2**64 - 1
    return number - 2**64 if number >= 2**63 else number
