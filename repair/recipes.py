"""Recipes of a repair: rows of a table, not classes."""

from dataclasses import dataclass

from dflare.errors import InputError
from repair.losses import LOSSES


@dataclass(frozen=True)
class Recipe:
    """What is minimised; how long and how fast comes with the schedule."""

    loss: str


RECIPES: dict[str, Recipe] = {"imitation": Recipe(loss="imitation")}
"""Name -> recipe. `imitation`: KL to the original's outputs on triggers and replayed clean images."""


def find_recipe(name: str) -> Recipe:
    """A recipe by name; raises `InputError` for an unknown one."""
    if name not in RECIPES:
        raise InputError(f"repair.recipe must be one of {', '.join(RECIPES)}, got {name!r}")
    assert RECIPES[name].loss in LOSSES
    return RECIPES[name]
