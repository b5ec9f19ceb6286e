"""Settings of an ablation: those of a run, and what is varied over it."""

from dataclasses import dataclass, field
from typing import Any

from dflare.errors import InputError
from experiments.config import Config

VERBS = ("loop", "search")


@dataclass
class Ablate:
    """What is varied: every combination of the grid's values and the arms, each with several seeds."""

    grid: dict[str, Any] = field(default_factory=dict)  # key of a setting -> list of its values
    arms: dict[str, Any] = field(default_factory=dict)  # name -> settings that are changed together
    baseline: str | None = None  # the arm that the others are compared with; null: the first
    seeds: int = 3  # runs of each combination, with seed, seed + 1, ...
    verb: str = "loop"  # loop, or search where nothing is repaired
    jobs: int = 1  # runs at a time


@dataclass
class AblationConfig(Config):
    """All settings of an ablation."""

    ablate: Ablate = field(default_factory=Ablate)


def check_ablation(settings: AblationConfig) -> None:
    """Raise `InputError` for an ablation without anything to vary, and for numbers out of range."""
    wanted = settings.ablate
    if not wanted.grid and not wanted.arms:
        raise InputError(
            "an ablation needs something to vary: ablate.grid, such as ablate.grid.search.strategy=[dflare,random], "
            "or ablate.arms in a YAML file"
        )
    for key, value, low, high in (("seeds", wanted.seeds, 1, 10_000), ("jobs", wanted.jobs, 1, 1024)):
        if not low <= value <= high:
            raise InputError(f"ablate.{key} must be in [{low}, {high}], got {value}")
    if wanted.verb not in VERBS:
        raise InputError(f"ablate.verb must be one of {', '.join(VERBS)}, got {wanted.verb!r}")
