"""From what an ablation varies to its runs."""

import difflib
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from dflare.errors import InputError
from experiments.ablation_config import AblationConfig
from experiments.settings import as_dict

BLOCKS = ("pair", "models", "data", "preflight", "split")
"""Sections that say what is repaired, and not how: arms are compared within their values and never across them."""

OWN = ("ablate", "run_dir", "seed")
"""Keys that an ablation gives to its runs itself."""


@dataclass(frozen=True)
class Cell:
    """One run: an arm on a block, with a seed."""

    arm: str
    block: str  # "" where all runs are of one
    seed: int
    settings: Mapping[str, Any]  # nested, all that a configuration file of the run says but its folder

    @property
    def name(self) -> str:
        """Of its folder: readable, and another one for other settings."""
        words = re.sub(r"[^A-Za-z0-9.+-]+", "_", "-".join(filter(None, (self.block, self.arm))))[:60].strip("._-")
        content = json.dumps({**self.settings, "seed": None}, sort_keys=True)
        return f"{words or 'run'}-{hashlib.sha256(content.encode()).hexdigest()[:8]}-seed{self.seed}"


@dataclass(frozen=True)
class Grid:
    """All runs of an ablation, in order, and what is compared with what."""

    cells: tuple[Cell, ...]
    arms: tuple[str, ...]
    blocks: tuple[str, ...]
    baseline: str


def make_grid(settings: AblationConfig) -> Grid:
    """Every combination of arms and values; raises `InputError` for what is no list, is empty, or comes up twice."""
    base = {key: value for key, value in as_dict(settings).items() if key not in OWN}
    factors = [_named(settings.ablate.arms)] if settings.ablate.arms else []
    factors += [_valued(key, values) for key, values in _lists(settings.ablate.grid)]
    cells, arms, blocks = [], [], []
    for chosen in itertools.product(*factors):
        arm = ", ".join(one.label for one in chosen if not one.is_block)
        block = ", ".join(one.label for one in chosen if one.is_block)
        arms.append(arm or "run")
        blocks.append(block)
        changed = _merged(base, {key: value for one in chosen for key, value in one.changes.items()})
        for number in range(settings.ablate.seeds):
            seed = settings.seed + number
            cells.append(Cell(arms[-1], block, seed, {**changed, "seed": seed}))
    if len({cell.name for cell in cells}) < len(cells):
        raise InputError(
            "two combinations of ablate.grid and ablate.arms come to the same settings; name each value once"
        )
    return Grid(tuple(cells), _once(arms), _once(blocks), _baseline(settings.ablate.baseline, _once(arms)))


@dataclass(frozen=True)
class _Value:
    label: str
    changes: Mapping[str, Any]  # dotted keys
    is_block: bool = False


def _named(arms: Mapping[str, Any]) -> list[_Value]:
    found = []
    for name, changes in arms.items():
        if not isinstance(changes, Mapping):
            raise InputError(f"ablate.arms.{name} must be settings that change, such as {{search.strategy: random}}")
        flat = dict(_flat(changes))
        _check_keys(flat, f"ablate.arms.{name}")
        found.append(_Value(str(name), flat))
    return found


def _valued(key: str, values: Any) -> list[_Value]:
    _check_keys({key: None}, "ablate.grid")
    if not isinstance(values, list) or not values:
        raise InputError(f"ablate.grid.{key} must be a list of values, such as [a,b], got {values!r}")
    short, is_block = key.rpartition(".")[2], key.partition(".")[0] in BLOCKS
    return [_Value(f"{short}={_said(value)}", {key: value}, is_block) for value in values]


def _lists(grid: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in grid.items():
        if isinstance(value, Mapping):
            yield from _lists(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _flat(changes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return _lists(changes)


def _check_keys(changes: Mapping[str, Any], where: str) -> None:
    if own := [key for key in changes if key.partition(".")[0] in OWN]:
        raise InputError(f"{where} cannot vary {own[0]}, which the ablation gives to each run itself")


def _said(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        return "+".join(map(_said, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    config = OmegaConf.create(dict(base))
    for key, value in changes.items():
        OmegaConf.update(config, key, value, merge=False, force_add=True)
    return OmegaConf.to_container(config)  # type: ignore[return-value]


def _once(names: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _baseline(name: str | None, arms: tuple[str, ...]) -> str:
    if name is None:
        return arms[0]
    if name not in arms:
        close = difflib.get_close_matches(name, arms, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"ablate.baseline must be one of the arms ({'; '.join(arms)}), got {name!r}{hint}")
    return name
