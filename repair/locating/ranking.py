"""The one result of localisation: layers, channels and weights with their shares of the responsibility."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repair.locating.measurement import Case, Measurement, Mended
from repair.proof.intervals import CONFIDENCE, Figure, share

RESAMPLES = 200
"""Resamples of the triggers for the intervals of shares, which leaves an error of their ends of about a tenth."""

TOP = 20
"""Weights of a layer that are named."""


@dataclass(frozen=True)
class WeightShare:
    """One weight and its share of the responsibility of its layer, in [0, 1]."""

    parameter: str  # as in `Trainable.module`
    index: tuple[int, ...]
    share: float


@dataclass(frozen=True)
class Responsible:
    """One layer, or one rounding of activations, and what it answers for."""

    name: str
    kind: str  # the operator
    value: str  # name of the value in the graph: what is rounded, or what the operator computes
    parameters: tuple[str, ...]  # of a rounding none
    share: Figure  # of the responsibility of all layers, in [0, 1]; the interval is over triggers
    channels: tuple[float, ...]  # shares of the layer's responsibility, in [0, 1], summing to 1, or all 0
    weights: tuple[WeightShare, ...]  # the most responsible ones first, at most `TOP`
    repaired: Figure | None  # share of triggers that agree after the intervention; None for other methods
    broken: Figure | None  # share of control images that no longer do


@dataclass(frozen=True)
class Ranking:
    """Layers from the most to the least responsible; the shares sum to 1."""

    method: str
    triggers: int
    clean: int
    control: int  # images near the boundary; 0: the clean ones stand in for them
    evidence: bool  # False: the method saw no difference at all, and all layers have the same share
    layers: tuple[Responsible, ...]
    groups: Mapping[str, tuple[Figure, Figure]]  # many layers at once, "all weights": repaired and broken

    def names(self) -> list[str]:
        """Names of the layers, the most responsible first."""
        return [layer.name for layer in self.layers]

    def __getitem__(self, name: str) -> Responsible:
        return next(layer for layer in self.layers if layer.name == name)


def as_dict(ranking: Ranking) -> dict[str, Any]:
    """The ranking in plain numbers, for JSON."""
    return {
        "method": ranking.method,
        "triggers": ranking.triggers,
        "clean": ranking.clean,
        "control": ranking.control,
        "evidence": ranking.evidence,
        "groups": {
            name: {"repaired": repaired.as_dict(), "broken": broken.as_dict()}
            for name, (repaired, broken) in ranking.groups.items()
        },
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "value": layer.value,
                "parameters": list(layer.parameters),
                "share": layer.share.as_dict(),
                "repaired": layer.repaired.as_dict() if layer.repaired else None,
                "broken": layer.broken.as_dict() if layer.broken else None,
                "channels": [round(channel, 6) for channel in layer.channels],
                "weights": [
                    {"parameter": w.parameter, "index": list(w.index), "share": w.share} for w in layer.weights
                ],
            }
            for layer in ranking.layers
        ],
    }


def ranking_of(method: str, measured: Measurement, case: Case, seed: int) -> Ranking:
    """What a method measured, as shares with bootstrap intervals over the triggers; `seed` draws the resamples."""
    n = measured.samples
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES if n > 1 else 0)
    rows = torch.cat([torch.full((1, n), 1 / n), torch.from_numpy(draws).float() / n])
    scores = measured.scores(rows).double()
    total = scores.sum(-1, keepdim=True)
    shares = torch.where(total > 0, scores / total.clamp(min=torch.finfo().tiny), 1 / scores.shape[1]).numpy()
    ends = np.quantile(shares[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0) if n > 1 else None
    layers = []
    for i, layer in enumerate(measured.layers):
        low, high = (None, None) if ends is None else (float(ends[0, i]), float(ends[1, i]))
        layers.append(
            Responsible(
                layer.name,
                layer.kind,
                layer.reads if layer.rounds else layer.output,
                layer.parameters,
                Figure(float(shares[0, i]), low, high, len(case.triggers)),
                _normalised(measured.channels[i]),
                _top(measured.weights[i]),
                *(_figures(measured.mended[i]) if measured.mended else (None, None)),
            )
        )
    layers.sort(key=lambda layer: -(layer.share.value or 0))  # stable: equal ones in the order of the graph
    near = len(case.near) if case.near is not None else 0
    groups = {name: _figures(mended) for name, mended in measured.groups.items()}
    return Ranking(method, len(case.triggers), len(case.clean), near, bool(total[0] > 0), tuple(layers), groups)


def _normalised(values: Tensor) -> tuple[float, ...]:
    total = float(values.sum())
    return tuple((values.double() / total).tolist() if total > 0 else [0.0] * len(values))


def _top(weights: Mapping[str, Tensor]) -> tuple[WeightShare, ...]:
    """The weights of a layer with the greatest scores; those with none are not named."""
    total = sum(float(scores.sum()) for scores in weights.values())
    found = []
    for name, scores in weights.items():
        best = scores.flatten().topk(min(TOP, scores.numel()))
        for value, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            if value > 0:
                index = tuple(int(i) for i in np.unravel_index(place, scores.shape))
                found.append(WeightShare(name, index, value / total))
    return tuple(sorted(found, key=lambda weight: -weight.share)[:TOP])


def _figures(mended: Mended) -> tuple[Figure, Figure]:
    return share(mended.repaired.numpy()), share(mended.broken.numpy())
