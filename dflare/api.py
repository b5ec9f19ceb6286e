"""The search in one call, for callers who have two callables and an array."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from dflare.classifiers import Classifier, ModelPair, ask, check_images
from dflare.errors import InputError
from dflare.gradient import differentiable
from dflare.limits import Limits
from dflare.models.answers import scores_in
from dflare.models.interface import Interface
from dflare.models.shown import Shown
from dflare.parity.symptoms import are_probabilities
from dflare.references import References
from dflare.search import Ended, Ending, Search, fitting_batch
from dflare.seeds import distinct
from dflare.strategies import find_strategy, make_kernel
from dflare.triggers import Side, TriggerSet, concatenate
from dflare.walk import anywhere

_FIRST = 64
"""Images on which it is seen whether a model answers probabilities."""


def find_triggers(
    original: Classifier,
    compressed: Classifier,
    images: Tensor | np.ndarray,
    *,
    strategy: str = "boundary",
    mutations: Sequence[str] | None = None,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    max_queries: int = 1000,
    references: int = 256,
    batch_size: int | None = None,
    seed: int = 0,
    each: Callable[[Ended], None] = lambda ended: None,
) -> TriggerSet:
    """Mutations of real images on which two image classifiers disagree, one for each seed image that leads to one.

    `original` and `compressed` take images in [0, 1], float32 (n, c, h, w), and return finite scores (n, classes), a
    tensor or an array; where they turn out to be probabilities on the first images, their logarithms are taken. Models
    that want to see something else are wrapped: `Shown(model, Interface(range=(0, 255)))`. `images` are uint8
    (n, c, h, w), n >= 1; repeated ones are searched once. `strategy` is a key of `dflare.strategies.STRATEGIES`,
    `mutations` names some of its mutations, `limits` are distances that no trigger exceeds, `max_queries` is the
    budget of a seed in candidates shown to both models, `references` how many of the images `boundary` asks
    beforehand. The result is a function of these arguments; the batch size matters only as far as the models round
    differently. `each` hears of every chain that ends, also of those that find nothing and of seeds on which the
    models disagree already. Triggers are in the order of their seeds' ids (`pixel_hash`).
    Raises `InputError` for images or scores of another kind, unknown names and numbers that make no sense.
    """
    if not isinstance(images, (Tensor, np.ndarray)):
        raise InputError(f"images must be a tensor or an array, uint8 (n, c, h, w), got a {type(images).__name__}")
    pixels = torch.as_tensor(images)
    check_images(pixels)
    if not len(pixels):
        raise InputError("expected one image or more to search from, got none")
    for name, number in (("max_queries", max_queries), ("references", references), ("batch_size", batch_size or 1)):
        if number < 1:
            raise InputError(f"{name} must be at least 1, got {number}")
    seeds = distinct(pixels)
    first = seeds.images[:_FIRST]
    asked = _answering(original, "original", first), _answering(compressed, "compressed", first)
    pair = ModelPair(*asked)
    size, needs = batch_size or fitting_batch(pixels), find_strategy(strategy)
    kernel = make_kernel(
        strategy,
        mutations,
        hold=limits.hold if limits != Limits() else anywhere,
        references=References.ask(pair, seeds.images[:references], size) if needs.references else None,
        gradients=differentiable(original, compressed) if needs.gradients else None,
        max_l_inf=limits.l_inf,
    )
    search, found = Search(kernel, pair, ModelPair(*asked), seed, max_queries, size), []
    for ended in search.run([seeds]):
        each(ended)
        rows = torch.full((len(ended.chains),), ended.ending is Ending.deviated)
        found.append(TriggerSet.of(Ended(ended.ending, ended.chains[rows], ended.outputs.take(rows)), Side.train))
    triggers = concatenate(found)
    return triggers.take(triggers.seeds.argsort())


def _answering(model: Classifier, name: str, images: Tensor) -> Classifier:
    """The model with its answers as scores; raises `InputError` for what is no model, or one in training mode."""
    if not callable(model):
        raise InputError(f"the {name} model must be a callable, got a {type(model).__name__}")
    if isinstance(model, nn.Module):
        moody = [child for child in model.modules() if child.training and isinstance(child, (_DropoutNd, _BatchNorm))]
        if moody:
            raise InputError(
                f"the {name} model must be in evaluation mode, its {type(moody[0]).__name__} is not: call eval()"
            )

    def answered(values: Tensor) -> Tensor:
        return scores_in(model(values), len(values), f"the {name} model")

    sure = are_probabilities(ask(answered, images, name))
    return Shown(answered, Interface(scores="probabilities")) if sure else answered
