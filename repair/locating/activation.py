"""Which channels behave differently where the models deviate."""

import torch
from torch import Tensor

from repair.locating.measurement import Case, Measurement
from repair.locating.tracing import Asked
from repair.locating.watched import by_channel


def activation(case: Case) -> Measurement:
    """|mean activation on triggers - mean on clean images| of each channel, in standard deviations of the two.

    BIRDNN's responsibility of a neuron (Liang et al., 2024, section 4; its neurons are channels here). Means and not
    sums, so that unequal numbers of triggers and clean images do no harm, and divided by the pooled standard deviation
    over images, so that channels of different size can be compared. A layer's score is the mean over its channels.
    A difference also runs on from where it arises through every later layer.
    """
    layers = case.model.weighted
    ends = [layer.end for layer in layers]
    triggers, clean = (case.model.outcome(examples, Asked(keep=ends)) for examples in (case.triggers, case.clean))
    values = [(by_channel(triggers.kept[end]), by_channel(clean.kept[end])) for end in ends]
    usual = [there.mean(0) for _, there in values]
    spread = [((here.var(0, correction=0) + there.var(0, correction=0)) / 2).sqrt() for here, there in values]

    def differences(weights: Tensor) -> list[Tensor]:
        rows = zip(values, usual, spread, strict=True)
        return [
            torch.where(wide > 0, (weights @ here - there).abs() / wide, 0)  # a channel that is constant says nothing
            for (here, _), there, wide in rows
        ]

    def scores(weights: Tensor) -> Tensor:
        return torch.stack([difference.mean(-1) for difference in differences(weights)], -1)

    n = len(case.triggers)
    channels = [difference[0] for difference in differences(torch.full((1, n), 1 / n))]
    return Measurement(layers, n, scores, channels, [{} for _ in layers])
