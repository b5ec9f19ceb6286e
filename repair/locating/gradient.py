"""Which weights the deviations are most sensitive to."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from repair.data import Examples
from repair.locating.layers import Layer
from repair.locating.measurement import Case, Measurement
from repair.locating.tracing import Asked
from repair.locating.watched import Watched, margin, rows_of

TOLERANCE = 1e-4
"""Difference of two margins up to which they are the same: float32, and a softmax and its logarithm in between."""


@dataclass(frozen=True)
class Amounts:
    """What a quantity of the weights comes to on n images."""

    weights: dict[str, Tensor]  # mean over the images, by parameter, in its shape
    channels: list[Tensor]  # (n, channels) sums over the weights of a channel, one for each layer


def gradient(case: Case) -> Measurement:
    """Amounts |w * d loss / d w|, mean over the triggers minus mean over the clean images, never below 0.

    The loss of an image is (m - m*)^2 / 2, where m and m* are the margins of the original's label in the compressed
    model and in the original: 0 where the two agree to the last digit, so that sensitive weights count where there is
    an error to answer for. To first order w * d loss / d w is what setting w to 0 takes off the loss; amounts add up
    over a channel, and channels over a layer. A weight that was set to 0 cannot be found.
    """
    layers = case.model.weighted
    on_triggers, on_clean = (amounts(case.model, examples) for examples in (case.triggers, case.clean))
    usual = [channels.mean(0) for channels in on_clean.channels]
    pairs = list(zip(on_triggers.channels, usual, strict=True))

    def scores(weights: Tensor) -> Tensor:
        return torch.stack([(weights @ found - clean).clamp(min=0).sum(-1) for found, clean in pairs], -1)

    more = {name: (mean - on_clean.weights[name]).clamp(min=0) for name, mean in on_triggers.weights.items()}
    return Measurement(
        layers,
        len(case.triggers),
        scores,
        [(found.mean(0) - clean).clamp(min=0) for found, clean in pairs],
        [{name: more[name] for name in layer.parameters} for layer in layers],
    )


def amounts(model: Watched, examples: Examples, times_weight: bool = True) -> Amounts:
    """|w * d loss / d w| of every weight, or |d loss / d w| without `times_weight`.

    Image by image: magnitudes do not cancel between images.
    """
    names = [name for layer in model.weighted for name in layer.parameters]
    total = {name: torch.zeros_like(model.parameters[name]) for name in names}
    channels: list[list[Tensor]] = [[] for _ in model.weighted]
    for part in model.parts(examples, size=1):
        margins, slopes = model.gradients(part, Asked(), names)
        wanted = margin(part.original, part.original)[: part.count]
        error = (margins - wanted).abs()
        error = torch.where(error > TOLERANCE * (1 + wanted.abs()), error, 0)
        factors = {name: model.parameters[name] if times_weight else 1 for name in names}
        each = {name: (factors[name] * slopes[name]).abs() * error for name in names}
        for name in names:
            total[name] += each[name]
        for found, layer in zip(channels, model.weighted, strict=True):
            found.append(channel_sums(each, layer))
    return Amounts({name: value / len(examples) for name, value in total.items()}, [torch.stack(c) for c in channels])


def channel_sums(each: Mapping[str, Tensor], layer: Layer) -> Tensor:
    """Sums (channels,) over all weights of a layer that belong to an output channel, biases included."""
    weight = rows_of(each[layer.parameters[0]], layer.axis).sum(-1)
    for name in layer.parameters[1:]:
        if name not in each:
            continue
        rows = rows_of(each[name], layer.axis).sum(-1)
        weight = weight + (rows if len(rows) == len(weight) else 0)
    return weight
