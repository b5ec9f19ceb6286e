"""What becomes of the deviations if one layer is put right."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from repair.locating.gradient import channel_sums
from repair.locating.layers import Layer
from repair.locating.measurement import Case, Measurement, Mended
from repair.locating.tracing import Asked, Change
from repair.locating.watched import Outcome, by_channel

TRIED = 3
"""Channels of a layer that are held at their means in earnest: the first ones of an estimate to first order."""


@dataclass(frozen=True)
class Tried:
    """What an intervention in one layer did."""

    mended: Mended
    gain: float  # by how much the margin of the original's label grew on triggers, mean
    channels: Tensor  # (channels,) >= 0
    weights: Mapping[str, Tensor]  # by parameter, >= 0


def intervention(case: Case) -> Measurement:
    """Share of triggers that agree once one layer is put right, less the share of control images that then deviate.

    A rounding is left out (values are still clamped to the range of their integers). Weights become those before the
    compression where these are known. Where nothing is rounded and nothing known, one channel at a time is held at
    its mean over the clean images (CARE; Sun et al., ICSE 2022) and the best of the likely ones counts. Within a
    layer, channels and weights have what the same change of them alone gains in margin, to first order.

    Triggers lie at a decision boundary, chosen because this very model errs on them: whatever stirs the numbers
    mends many, and breaks as many others. The control images show it if they lie at the boundary too.
    """
    before = Base.of(case)
    layers = [layer for layer in case.model.layers if layer.rounds or before.known(layer)] or case.model.weighted
    tried = [_tried(before, layer) for layer in layers]
    repaired = torch.stack([one.mended.repaired for one in tried], -1).float()
    broken = torch.stack([one.mended.broken for one in tried], -1).float().mean(0)
    roundings = [layer.output for layer in layers if layer.rounds]
    groups: dict[str, dict[str, Any]] = {
        "all roundings": {"unrounded": roundings},
        "all roundings but the last": {"unrounded": roundings[:-1]},  # the output's, which makes ties
        "all weights": {"weights": {name: case.reference[name] for layer in layers for name in before.known(layer)}},
    }
    return Measurement(
        layers,
        len(case.triggers),
        lambda weights: (weights @ repaired - broken).clamp(min=0),
        [one.channels for one in tried],
        [one.weights for one in tried],
        [one.mended for one in tried],
        {name: before.mended(Asked(**change))[0] for name, change in groups.items() if any(change.values())},
    )


@dataclass(frozen=True)
class Base:
    """The model as it is."""

    case: Case
    triggers: Outcome
    control: Outcome
    usual: dict[str, Tensor]  # mean over the clean images of the value at each layer's end, (1, ...)
    slopes: dict[str, Tensor]  # d margin / d value: (triggers, ...) of values, the mean over triggers of weights

    @classmethod
    def of(cls, case: Case) -> "Base":
        model = case.model
        values = [layer.end for layer in model.layers]
        names = [name for layer in model.weighted for name in layer.parameters]
        found: list[dict[str, Tensor]] = []
        for part in model.parts(case.triggers):
            _, slopes = model.gradients(part, Asked(keep=values), names)
            found.append({name: slope if name in names else slope[: part.count] for name, slope in slopes.items()})
        slopes = {name: torch.cat([each[name] for each in found]) for name in values}
        slopes |= {name: torch.stack([each[name] for each in found]).sum(0) / len(case.triggers) for name in names}
        usual = model.outcome(case.clean, Asked(keep=values)).kept
        triggers, control = model.outcome(case.triggers, Asked(keep=values)), model.outcome(case.control, Asked())
        return cls(case, triggers, control, {name: kept.mean(0, keepdim=True) for name, kept in usual.items()}, slopes)

    def known(self, layer: Layer) -> list[str]:
        """The layer's weights whose values before the compression are known."""
        return [name for name in layer.parameters if name in self.case.reference]

    def mended(self, asked: Asked) -> tuple[Mended, Outcome]:
        """What the model changed as asked does better and worse, and all that it says of the triggers."""
        triggers = self.case.model.outcome(self.case.triggers, asked)
        rest = Asked(asked.change, asked.weights, asked.unrounded)
        control = self.case.model.outcome(self.case.control, rest)
        repaired, broken = triggers.agrees & ~self.triggers.agrees, self.control.agrees & ~control.agrees
        return Mended(repaired, broken), triggers

    def gain(self, triggers: Outcome) -> float:
        """By how much the mean margin of the original's label grew."""
        return float((triggers.margins - self.triggers.margins).mean())


def _tried(before: Base, layer: Layer) -> Tried:
    if layer.rounds:
        return _unrounded(before, layer)
    return _replaced(before, layer) if before.known(layer) else _held(before, layer)


def _unrounded(before: Base, layer: Layer) -> Tried:
    mended, triggers = before.mended(Asked(unrounded=[layer.output], keep=[layer.end]))
    change = triggers.kept[layer.end] - before.triggers.kept[layer.end]
    channels = by_channel(change * before.slopes[layer.end]).mean(0).clamp(min=0)
    return Tried(mended, before.gain(triggers), channels, {})


def _replaced(before: Base, layer: Layer) -> Tried:
    model, reference = before.case.model, before.case.reference
    known = {name: reference[name] for name in before.known(layer)}
    mended, triggers = before.mended(Asked(weights=known))
    each = {name: (weight - model.parameters[name]) * before.slopes[name] for name, weight in known.items()}
    channels = channel_sums(each, layer).clamp(min=0)
    return Tried(mended, before.gain(triggers), channels, {name: value.clamp(min=0) for name, value in each.items()})


def _held(before: Base, layer: Layer) -> Tried:
    values, usual = before.triggers.kept[layer.end], before.usual[layer.end]
    estimate = by_channel((usual - values) * before.slopes[layer.end]).mean(0)
    likely = estimate.topk(min(TRIED, len(estimate))).indices.tolist()
    tried = []
    for channel in likely:
        mended, triggers = before.mended(Asked(change={layer.end: _hold(usual, channel)}))
        tried.append(Tried(mended, before.gain(triggers), estimate, {}))
    channels = torch.zeros_like(estimate)
    channels[likely] = torch.tensor([one.gain for one in tried]).clamp(min=0)
    best = max(tried, key=lambda one: (int(one.mended.repaired.sum()) - int(one.mended.broken.sum()), one.gain))
    return Tried(best.mended, best.gain, channels, {})


def _hold(usual: Tensor, channel: int) -> Change:
    """Holds one channel of a value at its mean over the clean images, place by place."""

    def hold(value: Tensor) -> Tensor:
        value = value.clone()
        value[:, channel] = usual[:, channel]
        return value

    return hold
