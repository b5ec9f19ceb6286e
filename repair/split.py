"""A model in two: what its frozen weights make of an image, and what the free ones make of that."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Split:
    """Two modules with the parameters of the one that was split, by the same names, of which each reads some.

    `before` maps values (n, ...) as the file takes them to activations (n, k) float32, every row a function of its
    own image alone; `after` maps these to the file's answers. Only `after` reads weights that may change.
    """

    before: nn.Module
    after: nn.Module
    reads: tuple[frozenset[str], frozenset[str]]  # names of the parameters that each reads
