"""Bias correction: the mean error of a layer's sums, which its bias can take away.

M. Nagel et al., "Data-free quantization through weight equalization and bias correction" (ICCV 2019), section 4.2 and
the empirical variant of its appendix D: rounding shifts the mean of what a layer computes, and the shift is the
difference of the means over images in the original and in the compressed model.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dflare.classifiers import to_unit
from dflare.errors import InputError
from repair.compression import Compressed
from repair.locating.layers import Layer
from repair.locating.tracing import Asked, Step
from repair.locating.watched import Watched, by_channel
from repair.trainable import Trainable

ADDS = {"Add", "add", "BatchNormalization", "batch_norm", "_native_batch_norm_legit_no_training"}
"""Operators behind a layer that still belong to its sum: a bias of its own, a normalisation."""

BATCH = 100
"""Images run at once."""


def correct_biases(trainable: Trainable, original: Trainable, images: Tensor) -> dict[str, Tensor]:
    """Shift the biases of a compressed model so that each layer's sums have the means that the original's have.

    `images`: uint8 (n, c, h, w), clean ones. One layer after the other, each behind those corrected before it. The
    module's biases are overwritten; what each was shifted by, by parameter name, before its grid rounds it. Layers
    without a bias stay. Raises `InputError` for an original whose layers are others (their number or the shapes of
    their weights).
    """
    ours, theirs = Watched(trainable), Watched(original)
    pairs = _pairs(ours, theirs)
    wanted = _means(theirs, original, [_sum(theirs, layer).output for _, layer in pairs], images)
    shifts = {}
    for mine, other in pairs:
        step = _sum(ours, mine)
        name = step.parameters[-1] if step.parameters else ""
        bias = dict(trainable.module.named_parameters()).get(name)
        if bias is None or bias.ndim > 1:
            continue
        shift = wanted[_sum(theirs, other).output] - _means(ours, trainable, [step.output], images)[step.output]
        if shift.numel() == bias.numel():
            shifts[name] = shift.float().reshape(bias.shape)
            with torch.no_grad():
                bias.add_(shifts[name])
    return shifts


CORRECTIONS: dict[str, Callable[..., dict[str, Tensor]]] = {
    "none": lambda trainable, original, images: {},
    "bias": lambda trainable, original, images: correct_biases(trainable, original(), images),
}
"""Name -> what is corrected before a training: (model, what opens the original, clean images) -> shifts of biases."""


def _pairs(ours: Watched, theirs: Watched) -> list[tuple[Layer, Layer]]:
    """Layers with weights of both models, one beside the other."""
    shapes = [
        [sorted(each.parameters[layer.parameters[0]].shape) for layer in each.weighted] for each in (ours, theirs)
    ]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"correction=bias of the repair's recipe needs an original with the compressed model's layers, "
            f"got {len(shapes[1])} of them with weights of other shapes or in another order than those {len(shapes[0])}"
        )
    return list(zip(ours.weighted, theirs.weighted, strict=True))


def _sum(watched: Watched, layer: Layer) -> Step:
    """The step whose output is the layer's whole sum: itself, or the last of a bias and normalisation behind it."""
    step = next(step for step in watched.trace.steps if step.output == layer.output)
    while True:
        readers = [other for other in watched.trace.steps if step.output in other.reads]
        if len(readers) != 1 or readers[0].op not in ADDS or not readers[0].parameters:
            return step
        step = readers[0]


@torch.no_grad()
def _means(watched: Watched, trainable: Trainable, values: list[str], images: Tensor) -> dict[str, Tensor]:
    """The mean of intermediate values over images and places, (channels,) float64 each, with projected weights."""
    weights = Compressed(trainable.module, trainable.plan).weights()
    totals: dict[str, Tensor] = {}
    for start in range(0, len(images), BATCH):
        asked = Asked(weights=weights, keep=set(values))
        watched.scores(to_unit(images[start : start + BATCH]), asked)
        for name, value in asked.kept.items():
            totals[name] = totals.get(name, torch.zeros(())) + by_channel(value.double()).sum(0)
    return {name: total / len(images) for name, total in totals.items()}
