"""Which layers, channels and weights answer for the deviations: one result for repairs, reports and mixed precision."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dflare.errors import InputError
from repair.data import Examples
from repair.locating.activation import activation
from repair.locating.gradient import gradient
from repair.locating.intervention import intervention
from repair.locating.measurement import Case, Method
from repair.locating.pareto import pareto
from repair.locating.ranking import Ranking, ranking_of
from repair.locating.tracing import Asked
from repair.locating.watched import Watched
from repair.trainable import Trainable

METHODS: dict[str, Method] = {
    "intervention": intervention,
    "gradient": gradient,
    "activation": activation,
    "pareto": pareto,
}
"""Name -> how responsibility is measured. What each can and cannot find stands in docs/localisation.md."""


def localise(
    trainable: Trainable,
    triggers: Examples,
    clean: Examples,
    method: str = "intervention",
    reference: Trainable | Mapping[str, Tensor] | None = None,
    near: Examples | None = None,
    seed: int = 0,
) -> Ranking:
    """How responsible each layer of a compressed model is for its deviations on the triggers.

    Triggers and clean images come with the original's probabilities; clean images on which the model deviates too are
    left out. `near` are images at the decision boundary on which the pair agrees: an intervention that breaks them
    has merely stirred the numbers. `reference` is the original opened for repair, or weights by the compressed model's
    parameter names: what the weights were before the compression; used by `intervention`, where shapes fit. The
    result is a function of the arguments; `seed` draws the resamples. Raises `InputError` for an unknown method, for
    no triggers, for no clean images, and for a model without layers.
    """
    if method not in METHODS:
        raise InputError(f"localise.method must be one of {', '.join(METHODS)}, got {method!r}")
    model = Watched(trainable)
    if len(clean):
        model.only_by_image(clean.images)
    if not model.layers:
        raise InputError(
            "a model whose layers are to be told apart must have weights of two or more dimensions, got none"
        )
    agreeing, close = _agreeing(model, clean), _agreeing(model, near)
    if not len(triggers) or not len(agreeing):
        raise InputError(
            "responsibility needs triggers and clean images on which the models agree, "
            f"got {len(triggers)} and {len(agreeing)}"
        )
    known = reference if isinstance(reference, Mapping) else matched(model, reference)
    case = Case(model, triggers, agreeing, known, close if len(close) else None)
    return ranking_of(method, METHODS[method](case), case, seed)


def matched(model: Watched, original: Trainable | None) -> dict[str, Tensor]:
    """The original's weights by the compressed model's parameter names; nothing where the layers differ in shape.

    Layers are matched in the order of the graphs; names differ between formats and exports.
    """
    if original is None:
        return {}
    other = Watched(original)
    mine, theirs = ([w.parameters[n] for layer in w.weighted for n in layer.parameters] for w in (model, other))
    if [weight.shape for weight in mine] != [weight.shape for weight in theirs]:
        return {}
    names = [name for layer in model.weighted for name in layer.parameters]
    return dict(zip(names, theirs, strict=True))


def _agreeing(model: Watched, examples: Examples | None) -> Examples:
    if examples is None or not len(examples):
        return Examples(torch.zeros(0), torch.zeros(0))
    agrees = model.outcome(examples, Asked()).agrees
    return Examples(examples.images[agrees], examples.targets[agrees])
