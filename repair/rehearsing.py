"""The first steps of a recipe, taken on one image: whether a model can be repaired by it is said before any search."""

from collections.abc import Callable

import torch
from torch import Tensor

from dflare.classifiers import to_unit
from repair.compression import Compressed
from repair.data import Examples
from repair.free import choose_free
from repair.integers.bias_correction import CORRECTIONS
from repair.integers.rounding import ROUNDINGS
from repair.losses import make_loss
from repair.module import Batch
from repair.recipes import Recipe
from repair.trainable import Trainable


def rehearse(recipe: Recipe, trainable: Trainable, original: Callable[[], Trainable], images: Tensor) -> None:
    """Raise `InputError` where the recipe asks for what the model or its original lacks: scales, grids, like layers.

    `trainable` is opened for the recipe's scales and is not to be used afterwards, its weights are overwritten.
    `original` opens the original and is called only where the recipe corrects by it. `images`: uint8 (n, c, h, w),
    n >= 1, of which the first is shown; its target is what the model says itself.
    """
    CORRECTIONS[recipe.correction](trainable, original, images[:1])
    student = Compressed(trainable.module, trainable.plan, trainable.shown)
    with torch.no_grad():
        one = Examples(images[:1], student(to_unit(images[:1])).softmax(-1))

    def batch(number: int) -> Batch:
        return one.batch(slice(0, 1), is_trigger=True)

    names = choose_free(trainable, recipe.free, one)
    ROUNDINGS[recipe.rounding](trainable, names, make_loss(recipe.loss, recipe.options), batch, 1)
