"""Recipes in YAML files: those that come with the package in `configs/repair`, and a user's own."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dflare.errors import InputError
from repair.losses import loss_options
from repair.recipes import Recipe, recipe_names

ENDINGS = (".yaml", ".yml")


def recipe_file(name: str, rows: Sequence[str]) -> Recipe:
    """The recipe in a file: one's own by path, or a shipped one by name.

    `rows` are the names that are no files. Raises `InputError` with the nearest right name for an unknown one, and
    for a file that does not hold a recipe.
    """
    path, shipped = Path(name), shipped_recipes()
    if path.suffix in ENDINGS or path.name != name:
        if not path.is_file():
            raise InputError(f"repair.recipe must name a file that is there, found none at {name}")
        return read_recipe(path)
    if name in shipped:
        return read_recipe(shipped[name])
    close = difflib.get_close_matches(name, [*rows, *shipped], 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise InputError(f"repair.recipe must be one of {recipe_names(rows, shipped)}, got {name!r}{hint}")


def shipped_recipes() -> dict[str, Path]:
    """The recipe files that come with the package, by name."""
    folder = Path(str(files("configs"))) / "repair"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file, whose keys are the fields of `Recipe`; what it leaves out is as in `imitation`.

    Raises `InputError` for anything else.
    """
    try:
        loaded = OmegaConf.load(path)
        content = OmegaConf.to_container(loaded, resolve=True) if isinstance(loaded, DictConfig) else None
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise InputError(f"expected YAML in the recipe {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict) or not content:
        raise InputError(f"expected keys and values in the recipe {path}, such as loss: margin")
    try:
        return _recipe(content)
    except InputError as error:
        raise InputError(f"the recipe {path} is wrong: {error}") from error


def _recipe(content: Mapping[Any, Any]) -> Recipe:
    known = [entry.name for entry in fields(Recipe)]
    _check_keys(content, known, "key")
    options = content.get("options") or {}
    if not isinstance(options, dict):
        raise InputError(f"options must be keys and values, got {options!r}")
    loss = content.get("loss", Recipe.loss)
    if isinstance(loss, str) and loss in _losses():
        _check_keys(options, list(loss_options(loss)), f"option of the loss {loss}:")
    values = {name: _typed(name, value) for name, value in content.items() if name != "options"}
    numbers = {str(name): _number(f"options.{name}", value) for name, value in options.items()}
    return Recipe(**values, options=MappingProxyType(numbers))


def _losses() -> Sequence[str]:
    from repair.losses import LOSSES

    return list(LOSSES)


def _check_keys(found: Mapping[Any, Any], known: Sequence[str], what: str) -> None:
    for key in found:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, 1, 0.5)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known) or 'none'}"
            raise InputError(f"unknown {what} {key}; {hint}")


def _typed(name: str, value: Any) -> Any:
    """A value of the kind that the field has by default: text or a number; `replay` may be null."""
    if isinstance(getattr(Recipe, name), str):
        if not isinstance(value, str):
            raise InputError(f"{name} must be a word, got {value!r}")
        return value
    return None if name == "replay" and value is None else _number(name, value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} must be a number, got {value!r}")
    return float(value)
