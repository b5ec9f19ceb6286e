"""Recipes of an output repair: which head, learnt from what beside the triggers. Imports no model code."""

from dataclasses import asdict, dataclass

from repair.search_based.recipes import SEARCH_RECIPES

REPLAYED = 10_000
"""Clean images, and mutated ones, that a head is shown at most."""


@dataclass(frozen=True)
class OutputRecipe:
    """What a head is and what it learns from."""

    head: str  # of `repair.outputs.fitting.LEARNERS`
    keep: bool = True  # whether it may keep what the model says; DFLARE's heads always say a label of their own
    clean: int = REPLAYED  # clean images of the train side, at most
    mutated: int = REPLAYED  # images of the train side on random paths of mutations, which no model chose, at most
    about: str = ""  # one sentence for a reader

    def parts(self) -> dict[str, object]:
        """The recipe as plain values by key, without its sentence."""
        return {key: value for key, value in asdict(self).items() if key != "about"}


PUBLISHED = "DFLARE's own: always a label of its own, learnt from triggers alone (it breaks clean images)"

OUTPUT_RECIPES: dict[str, OutputRecipe] = {
    "output-mlp": OutputRecipe("mlp", about="50 ReLUs that name another label or keep the model's (scikit-learn)"),
    "output-svm": OutputRecipe("svm", keep=False, about="a linear SVM that always names a label"),
    "output-tree": OutputRecipe("tree", about="a decision tree that names another label or keeps the model's"),
    "output-shift": OutputRecipe("shift", about="a linear correction of the scores, which starts at none"),
    "output-residual": OutputRecipe("residual", about="50 ReLUs that correct the scores, which starts at none"),
    "published-mlp": OutputRecipe("mlp", False, 0, 0, PUBLISHED),
    "published-svm": OutputRecipe("svm", False, 0, 0, PUBLISHED),
    "published-tree": OutputRecipe("tree", False, 0, 0, PUBLISHED),
}
"""Name, as `repair.recipe` has it -> recipe."""

OFFERED = "repair.recipe=output-mlp, output-svm, output-tree, output-shift or output-residual"
"""What to say to a user whose model stays closed."""


def recipe_parts(name: str) -> dict[str, object]:
    """The parts of the recipe that `repair.recipe` names, by key, as plain values.

    Raises `InputError` unless it is an output repair, a search, or a recipe of `repair.recipes`, by name or in a file.
    """
    if name in OUTPUT_RECIPES:
        return OUTPUT_RECIPES[name].parts()
    if name in SEARCH_RECIPES:
        return SEARCH_RECIPES[name].parts()
    from repair.recipe_files import recipe_file
    from repair.recipes import RECIPES

    known = [*RECIPES, *OUTPUT_RECIPES, *SEARCH_RECIPES]
    return (RECIPES[name] if name in RECIPES else recipe_file(name, known)).parts()
