"""Single weights of a model that a search may move, by name and place: fc.weight[3,17]."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from repair.trainable import Trainable


@dataclass(frozen=True)
class Place:
    """One weight: the parameter that holds it and where in it."""

    parameter: str
    index: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.parameter}[{','.join(map(str, self.index))}]"

    @classmethod
    def of(cls, name: str) -> "Place":
        """The place that `name` names; raises `ValueError` for another text."""
        found = re.fullmatch(r"(.+)\[(\d+(?:,\d+)*)\]", name)
        if found is None:
            raise ValueError(f"a weight's name must end with its place, as in fc.weight[3,17], got {name!r}")
        return cls(found[1], tuple(int(number) for number in found[2].split(",")))


class SingleWeights:
    """The weights at some places as a search moves them, in standard deviations of their tensors from where they are.

    The spread of a weight's siblings says how far it may reasonably go (Arachne draws its first values from it); of a
    tensor without spread the magnitude, where that is 0 too, 1.
    """

    def __init__(self, trainable: Trainable, places: Sequence[Place]) -> None:
        self.places = tuple(places)
        self._weights = {
            name: trainable.module.get_parameter(name).detach().clone()
            for name in dict.fromkeys(place.parameter for place in places)
        }
        self._units = {name: spread(weight) for name, weight in self._weights.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that hold them."""
        return tuple(self._weights)

    def weights(self, x: Tensor) -> dict[str, Tensor]:
        """The parameters of candidates (candidates, places), (candidates, ...) each; zeros are no change."""
        found = {name: weight.expand(len(x), *weight.shape).clone() for name, weight in self._weights.items()}
        for column, place in enumerate(self.places):
            each = found[place.parameter].movedim(0, -1)  # a view, so that the place is an index of numbers alone
            each[place.index] += x[:, column] * self._units[place.parameter]
        return found

    def starts(self, count: int, generator: torch.Generator) -> Tensor:
        """No change, and `count` - 1 draws from a normal distribution with mean and spread of each weight's tensor."""
        means = torch.stack([self._weights[place.parameter].mean() for place in self.places])
        now = torch.stack([self._weights[place.parameter][place.index] for place in self.places])
        units = torch.tensor([self._units[place.parameter] for place in self.places])
        drawn = (means - now) / units + torch.randn(count - 1, len(self.places), generator=generator)
        return torch.cat([torch.zeros(1, len(self.places)), drawn])


def spread(weight: Tensor) -> float:
    """Standard deviation of a tensor's weights, their magnitude where it is 0, and 1 where that is 0 too."""
    for size in (weight.std(correction=0), weight.abs().mean()):
        if float(size) > 0:
            return float(size)
    return 1.0


def can_move(trainable: Trainable, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which numbers of these weights, by parameter name, the projection lets move, bool of their shapes.

    Tried by a step of a standard deviation to either side: weights that were pruned away stay where they are.
    """
    found = {}
    for name, weight in weights.items():
        if name not in trainable.plan:
            found[name] = torch.ones_like(weight, dtype=torch.bool)
            continue
        project, unit = trainable.plan[name], spread(weight)
        with torch.no_grad():
            here = project(weight)
            found[name] = (project(weight + unit) != here) | (project(weight - unit) != here)
    return found
