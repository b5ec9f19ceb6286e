"""A compressed model opened for repair: what every file format has to offer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from torch import Tensor, nn

from dflare.models.interface import Interface, Takes
from dflare.models.shown import Model, Shown
from repair.compression import Plan

LEAST = 1e-30
"""Probability below which a trained model's is taken for this, so that its logarithm has a gradient."""


class Scales(Enum):
    """Which scales of a quantised model are opened for training beside its weights."""

    fixed = "none"
    limits = "those of activations"
    all = "those of activations and of weights"


@dataclass(frozen=True)
class Trainable:
    """A compressed model whose weights can move, and the way back into the format that it came in.

    `module` maps float32 values as the file takes them (n, ...) to its answers (n, ...); its parameters are latent
    weights, its `train` and `eval` do nothing (a compressed model has no training mode). `shown` makes a classifier
    of it, or of anything that answers in its place: images in [0, 1] reach it as `interface` and `takes` say.
    `plan` names what must stay compressed. `write(weights, path)` puts projected weights, by parameter name, into a
    copy of the file. `check(path)` opens a written file again and raises `InputError` unless it is the same graph
    with other weights, still compressed in the same way. `scales` names the parameters that are scales of grids, of
    which `limits` are activations'; only where the file was opened for them may they differ.
    """

    module: nn.Module
    plan: Plan
    write: Callable[[Mapping[str, Tensor], Path], None]
    check: Callable[[Path], None]
    takes: Takes = field(default_factory=Takes)
    interface: Interface = field(default_factory=Interface)
    scales: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()

    def shown(self, model: Model) -> Shown:
        """A classifier of images in [0, 1] from a model that takes and answers what `module` does."""
        return Shown(model, self.interface, self.takes, floor=LEAST)
