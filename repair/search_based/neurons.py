"""Neurons of an image classifier, a convolution's channel being one, and factors on them folded into the weights."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dflare.classifiers import to_unit
from repair.locating.layers import Layer
from repair.locating.tracing import Asked, Change
from repair.locating.watched import Watched, rows_of

SHOWN = 2
"""Images that channels are followed on, where the module takes so few."""

NORMALISATIONS = {"BatchNormalization", "batch_norm", "_native_batch_norm_legit_no_training"}


@dataclass(frozen=True)
class Neuron:
    """A hidden neuron: the name of its layer and its place there."""

    layer: str
    index: int

    @property
    def name(self) -> str:
        return f"{self.layer}#{self.index}"

    @classmethod
    def of(cls, name: str) -> "Neuron":
        """The neuron that `name` names; raises `ValueError` for another text."""
        found = re.fullmatch(r"(.+)#(\d+)", name)
        if found is None:
            raise ValueError(f"a neuron's name must be a layer and a number, as in conv1#3, got {name!r}")
        return cls(found[1], int(found[2]))


@dataclass(frozen=True)
class Fold:
    """A parameter and which of its numbers a neuron's factor multiplies, bool that broadcasts against it."""

    parameter: str
    where: Tensor


class Neurons:
    """The hidden neurons of a model, and where their factors go.

    A neuron's factor is folded into the weights that read it: the columns of the next layers, found by following the
    neuron through what lies between (pooling, flattening, rounding). Where its value meets that of others on the
    way (a skip connection), or the next layer is a convolution in groups, it is folded into the neuron's own weights
    and bias, or those of its normalisation: the same for a factor >= 0 where a ReLU or nothing follows.
    `images`: some uint8 (n, c, h, w), n >= 1.
    """

    def __init__(self, model: Watched, images: Tensor) -> None:
        self.model = model
        model.only_by_image(images)
        least, most = model.trace.batches
        self._images = to_unit(images[:1]).expand(min(max(SHOWN, least), most), *images.shape[1:]).contiguous()
        self.layers = {layer.name: layer for layer in model.weighted if self._hidden(layer)}
        self._columns: dict[str, list[tuple[Layer, Tensor]] | None] = {}

    def folds(self, neuron: Neuron) -> list[Fold]:
        """What the neuron's factor multiplies."""
        layer = self.layers[neuron.layer]
        if neuron.layer not in self._columns:
            self._columns[neuron.layer] = self._followed(layer)
        columns = self._columns[neuron.layer]
        if columns is None:
            return list(self._own(layer, neuron.index))
        return [Fold(to.parameters[0], self._column(to, origin == neuron.index)) for to, origin in columns]

    def _hidden(self, layer: Layer) -> bool:
        """Whether another layer with weights reads what this one gives."""
        return bool(self._next(layer))

    def _next(self, layer: Layer) -> list[Layer]:
        """The layers with weights that read this one's end with no other such layer between."""
        starts = {other.reads: other for other in self.model.weighted if other.name != layer.name}
        ends = {other.output for other in self.model.weighted}
        found, reached = [], {layer.end}
        if layer.end in starts:
            found += [other for other in self.model.weighted if other.reads == layer.end]
        for step in self.model.trace.steps:
            if step.output not in reached and step.output not in ends and reached & set(step.reads):
                reached.add(step.output)
                found += [other for other in self.model.weighted if other.reads == step.output]
        return found

    def _followed(self, layer: Layer) -> list[tuple[Layer, Tensor]] | None:
        """Each next layer with the neuron that each of its inputs comes from, (inputs,) int64; None where mixed."""
        count = len(rows_of(self.model.parameters[layer.parameters[0]], layer.axis))
        following = self._next(layer)
        silent = self._reads(layer, following, torch.ones(count, dtype=torch.bool), 0.0)
        if any(bool(value.abs().amax() > 0) for value in silent):
            return None  # something else arrives there too
        origins = [
            torch.zeros(value.shape[_channels(to)], dtype=torch.int64) for to, value in _pairs(following, silent)
        ]
        for bit in range(max(1, (count - 1).bit_length())):
            with_bit = (torch.arange(count) >> bit & 1).bool()
            sets = [self._reads(layer, following, chosen, torch.nan) for chosen in (with_bit, ~with_bit)]
            for place, to in enumerate(following):
                marked, other = (_marked(to, values[place]) for values in sets)
                if not bool((marked ^ other).all()):
                    return None
                origins[place] += marked.long() << bit
        fits = all(self.model.parameters[to.parameters[0]].ndim <= 2 or self._inputs(to) == len(origin)
                   for to, origin in zip(following, origins, strict=True))  # fmt: skip
        return list(zip(following, origins, strict=True)) if fits else None

    def _reads(self, layer: Layer, following: Sequence[Layer], chosen: Tensor, value: float) -> list[Tensor]:
        """What the next layers read once the chosen channels (channels,) of a layer's end have this value."""
        asked = Asked(change={layer.end: _set(chosen, value)}, keep=[to.reads for to in following])
        with torch.no_grad():
            self.model.scores(self._images, asked)
        return [asked.kept[to.reads] for to in following]

    def _inputs(self, layer: Layer) -> int:
        return self.model.parameters[layer.parameters[0]].shape[1]

    def _column(self, layer: Layer, mine: Tensor) -> Tensor:
        """Which numbers of a layer's weight read the inputs (inputs,) bool."""
        weight = self.model.parameters[layer.parameters[0]]
        if weight.ndim > 2:
            return mine.view(1, -1, *[1] * (weight.ndim - 2))
        return mine[:, None] if layer.axis else mine[None]

    def _own(self, layer: Layer, index: int) -> Iterator[Fold]:
        """The neuron's own weights and bias, or the gain and shift of the normalisation behind them."""
        steps = [step for step in self.model.trace.steps if step.op in NORMALISATIONS and step.parameters]
        last = [step.parameters for step in steps if set(step.parameters) <= set(layer.parameters)][-1:]
        for name in last[0] if last else layer.parameters:
            weight = self.model.parameters[name]
            size, axis = weight.ndim, layer.axis if weight.ndim > 1 else 0
            mine = torch.arange(weight.shape[axis]) == index
            yield Fold(name, mine.view([-1 if place == axis else 1 for place in range(size)]))


class Factors:
    """Factors 1 + w on some neurons as a search moves them, w (candidates, neurons)."""

    def __init__(self, neurons: Neurons, chosen: Sequence[Neuron]) -> None:
        self.chosen = tuple(chosen)
        self._folds = [(place, fold) for place, neuron in enumerate(chosen) for fold in neurons.folds(neuron)]
        names = dict.fromkeys(fold.parameter for _, fold in self._folds)
        self._weights = {name: neurons.model.parameters[name].clone() for name in names}

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that the factors are folded into."""
        return tuple(self._weights)

    def weights(self, w: Tensor) -> dict[str, Tensor]:
        """The parameters of candidates, (candidates, ...) each; zeros are no change."""
        found = {name: weight.expand(len(w), *weight.shape).clone() for name, weight in self._weights.items()}
        for place, fold in self._folds:
            each = w[:, place].view(-1, *[1] * self._weights[fold.parameter].ndim)
            found[fold.parameter] *= 1 + each * fold.where
        return found


def _channels(layer: Layer) -> int:
    """The dimension of what a layer reads that its weight's columns stand for."""
    return 1 if layer.kind in ("Conv", "conv2d", "conv1d", "conv3d", "convolution") else -1


def _pairs(layers: Sequence[Layer], values: Sequence[Tensor]) -> Iterator[tuple[Layer, Tensor]]:
    return zip(layers, values, strict=True)


def _marked(layer: Layer, value: Tensor) -> Tensor:
    """Which inputs of a layer are not numbers in some image, (inputs,) bool."""
    moved = value.isnan().movedim(_channels(layer), 0)
    return moved.flatten(1).any(-1)


def _set(chosen: Tensor, value: float) -> Change:
    """Gives the chosen channels of a value (n, channels, ...) one number; where these are last, there."""

    def change(values: Tensor) -> Tensor:
        dimension = 1 if values.ndim != 3 else -1  # (n, tokens, channels)
        shape = [1] * values.ndim
        shape[dimension] = -1
        return values.masked_fill(chosen.view(shape), value)

    return change
