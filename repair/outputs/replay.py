"""What a head learns from beside the triggers: images that no model chose, which show how rare deviations are."""

from collections.abc import Iterator

from torch import Tensor

from dflare.seeds import Seeds
from repair.outputs.recipes import OutputRecipe
from repair.proof.probe import ProbeSet


def replayed(recipe: OutputRecipe, side: Seeds) -> Iterator[Tensor]:
    """Clean and mutated images of a side, uint8 (n, c, h, w), in parts; as many as the recipe wants and the side has.

    The mutated ones lie on random paths, like those of the probe set, which are made from other seeds.
    """
    mutated = ProbeSet(side.images, side.ids, min(recipe.mutated, len(side.ids)))
    if recipe.clean:
        yield side.images[: recipe.clean]
    if mutated.count:
        yield from mutated.chunks()
