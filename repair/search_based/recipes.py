"""Recipes that search: the methods of the literature by name, as `repair.recipe` has them. Imports no model code."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class SearchRecipe:
    """A method, and how long it goes on where `repair.steps` allows it."""

    method: str  # of `repair.search_based.fitting.METHODS`
    steps: int | None  # iterations as published; None: as many steps as `repair.steps` says
    rate: float = 1.0  # what the learning rate is multiplied by, where there is one
    about: str = ""  # one sentence for a reader

    def parts(self) -> dict[str, object]:
        """The recipe as plain values by key, without its sentence."""
        return {key: value for key, value in asdict(self).items() if key != "about"}


SEARCH_RECIPES: dict[str, SearchRecipe] = {
    "arachne": SearchRecipe("arachne", 100, about="single weights on a Pareto front, by differential evolution"),
    "neurecover": SearchRecipe("neurecover", 100, about="single weights behind what regressed alone, by a swarm"),
    "care": SearchRecipe("care", 100, about="factors on the 20 neurons of largest causal effect, by a swarm"),
    "birdnn-retrain": SearchRecipe("birdnn-retrain", None, about="triggers imitate the nearest positives' scores"),
    "birdnn-finetune": SearchRecipe("birdnn-finetune", 100, about="factors on the 20 neurons that differ most"),
    "birdnn": SearchRecipe("birdnn", None, about="180 steps of BIRDNN's retraining and 20 of its fine-tuning in turn"),
}
"""Name, as `repair.recipe` has it -> recipe; docs/search_based_repair.md has the methods."""
