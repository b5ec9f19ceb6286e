"""What a method of localisation measures, before shares are made of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from repair.data import Examples
from repair.locating.layers import Layer
from repair.locating.watched import Watched


@dataclass(frozen=True)
class Case:
    """What a method looks at."""

    model: Watched
    triggers: Examples  # on which the pair deviates
    clean: Examples  # on which it agrees
    reference: Mapping[str, Tensor] = field(default_factory=dict)  # weights before compression, by parameter, if known
    near: Examples | None = None  # near the decision boundary as triggers are, but the pair agrees

    @property
    def control(self) -> Examples:
        """Images on which the pair agrees, as near to the boundary as there are."""
        return self.clean if self.near is None else self.near


class Mended(NamedTuple):
    """What an intervention did, whether each image agrees."""

    repaired: Tensor  # (triggers,) bool: it agrees now
    broken: Tensor  # (control,) bool: it agreed before and deviates now


@dataclass(frozen=True)
class Measurement:
    """Scores of the layers that a method tells apart; all lists are as long as `layers`."""

    layers: list[Layer]
    samples: int  # what is resampled: triggers, or parts of them
    scores: Callable[[Tensor], Tensor]  # weights of the samples (r, samples), rows summing to 1 -> (r, layers) >= 0
    channels: list[Tensor]  # (channels,) >= 0 each
    weights: list[Mapping[str, Tensor]]  # by parameter, in its shape, >= 0; empty where the method sees none
    mended: list[Mended] | None = None  # by a method that intervenes
    groups: Mapping[str, Mended] = field(default_factory=dict)  # many layers at once


Method = Callable[[Case], Measurement]
