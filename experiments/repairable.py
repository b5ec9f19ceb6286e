"""Whether a run's recipe can repair its compressed model: said before any work."""

from dflare.errors import InputError
from dflare.models.formats import sniff
from dflare.triggers import Side
from experiments.config import Config
from experiments.localising import need_original
from experiments.opening import Source
from experiments.oracle import Oracle
from experiments.precision import is_asked
from repair.devices import trainer_options
from repair.locating.tracing import trace
from repair.outputs.recipes import OFFERED, OUTPUT_RECIPES
from repair.recipes import Recipe, find_recipe
from repair.rehearsing import rehearse
from repair.search_based.recipes import SEARCH_RECIPES


def check_repair(oracle: Oracle, settings: Config) -> None:
    """Raise `InputError` before any work where the recipe cannot repair the compressed model."""
    recipe, subject = settings.repair.recipe, oracle.subject
    if recipe not in OUTPUT_RECIPES:
        subject.compressed_file()
        trainer_options(subject.placer.device, settings.trainer.precision, settings.trainer.strategy)
        _check_opens(subject.source())
        if recipe in SEARCH_RECIPES:
            _check_layers(subject.source())
        else:
            _check_suits(oracle, find_recipe(recipe))
    elif "compressed" not in subject.sources:
        raise InputError(f"{subject.name} is opened in memory and has nothing to put a head behind; search it instead")
    elif is_asked(settings):
        raise InputError(
            f"repair.precision widens a file that repair.recipe={recipe} leaves as it is; remove one of them"
        )
    elif settings.search.strategy == "gradient":
        raise InputError(
            f"search.strategy=gradient cannot see through the head of repair.recipe={recipe}; "
            "search.strategy=boundary asks for predictions only"
        )


def _check_opens(source: Source) -> None:
    """Raise `InputError` for a file with operators that no repair goes through; a `.pt2` says so itself."""
    if source.file is None or sniff(source.file) == "exported":
        return
    try:
        source.open_trainable()
    except InputError as error:
        raise InputError(f"{error}; its answers can be repaired instead, by {OFFERED}") from error


def _check_layers(source: Source) -> None:
    """Raise `InputError` for a model whose layers cannot be told apart, which searches for weights and neurons need."""
    trace(source.open_trainable().module)


def _check_suits(oracle: Oracle, recipe: Recipe) -> None:
    """Raise `InputError` for a recipe that asks for more than weights that move, where the pair does not have it."""
    images = oracle.subject.sides[Side.train].images
    if (recipe.free, recipe.rounding, recipe.correction) == (Recipe.free, Recipe.rounding, Recipe.correction):
        return  # which every model has that opens
    if len(images):
        trainable = oracle.subject.source().open_trainable(recipe.scales)
        rehearse(recipe, trainable, lambda: need_original(oracle, recipe.correction), images)
