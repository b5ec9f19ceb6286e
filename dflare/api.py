"""The search in one call, for callers who have two callables and an array."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from dflare.classifiers import Classifier, ModelPair, check_images
from dflare.errors import InputError
from dflare.gradient import differentiable
from dflare.limits import Limits
from dflare.references import References
from dflare.search import Ended, Ending, Search, fitting_batch
from dflare.seeds import distinct
from dflare.strategies import find_strategy, make_kernel
from dflare.triggers import Side, TriggerSet, concatenate
from dflare.walk import anywhere


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

    `original` and `compressed` take images in [0, 1], float32 (n, c, h, w), and return scores (n, classes), finite;
    one that gives probabilities is wrapped: `Shown(model, Interface(scores="probabilities"))`. `images` are uint8
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
    seeds, pair = distinct(pixels), ModelPair(original, compressed)
    size, needs = batch_size or fitting_batch(pixels), find_strategy(strategy)
    kernel = make_kernel(
        strategy,
        mutations,
        hold=limits.hold if limits != Limits() else anywhere,
        references=References.ask(pair, seeds.images[:references], size) if needs.references else None,
        gradients=differentiable(original, compressed) if needs.gradients else None,
        max_l_inf=limits.l_inf,
    )
    search, found = Search(kernel, pair, ModelPair(original, compressed), seed, max_queries, size), []
    for ended in search.run([seeds]):
        each(ended)
        rows = torch.full((len(ended.chains),), ended.ending is Ending.deviated)
        found.append(TriggerSet.of(Ended(ended.ending, ended.chains[rows], ended.outputs.take(rows)), Side.train))
    triggers = concatenate(found)
    return triggers.take(triggers.seeds.argsort())
