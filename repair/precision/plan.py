"""Which tensors of an int8 file get more bits."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Bits:
    """What of a file changes: nothing by default, which is false."""

    activations: tuple[str, ...] = ()  # of 16 bits
    weights: tuple[str, ...] = ()  # of 16 bits
    float_output: bool = False  # the last rounding left out

    def __bool__(self) -> bool:
        return bool(self.activations or self.weights or self.float_output)

    @property
    def key(self) -> str:
        """A short name, another one for other bits."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]
