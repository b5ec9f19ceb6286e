"""Settings of `dflare properties`, checked like those of the other verbs. Importing this imports no model code."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dflare.errors import InputError
from experiments.settings import read_settings

METHODS = ("hinge", "birdnn", "birdnn-retrain", "birdnn-finetune", "care", "plain")
"""Repairs by name, as `repair.properties.methods` has them."""

NONE = "none"
"""The method that repairs nothing: only the statement is made."""

DECISIONS = ("min", "max")

VERIFIERS = ("highs",)
"""Verifiers by name; or none."""

MOST_FRESH = 1_000_000_000
"""Fresh samples that a statement may take: about an hour of a small network."""


@dataclass
class PropertySettings:
    """What a network must not do, and how it is repaired so that it does not."""

    model: str | None = None  # an .onnx file of linear layers and activations
    files: list[str] = field(default_factory=list)  # .vnnlib files, all of which must hold
    method: str = METHODS[0]  # hinge, birdnn, birdnn-retrain, birdnn-finetune, care, plain, none (only the statement)
    samples: int = 10_000  # counterexamples, and safe inputs, to repair with; as many others judge
    counterexamples: str | None = None  # .npz, .npy or .h5 of one's own to repair with; null: drawn from the boxes
    safe: str | None = None  # the same, of inputs whose outputs are to stay
    epsilon: float = 1e-4  # violation rate that the repaired network must stay below
    delta: float = 1e-3  # chance that the statement is wrong
    fresh: int | None = None  # samples of the statement; null: as few as epsilon and delta take without a violation
    domain: str | None = None  # where else the network is used: a .vnnlib file, or "low..high" of every input
    output: str = DECISIONS[0]  # which score decides: min (as ACAS Xu's advisories) or max
    verifier: str = NONE  # highs: prove or refute every property of the networks before and after; or none
    verifier_seconds: float = 60.0  # for each property of each network
    verifier_margin: float = 0.0  # of outputs: how far from every violation a certificate keeps
    export: str | None = None  # folder for the claims as .onnx and .vnnlib, for other verifiers; null: not written


@dataclass
class PropertiesConfig:
    """All settings of `dflare properties`."""

    properties: PropertySettings = field(default_factory=PropertySettings)
    seed: int = 0
    threads: int = 1  # of torch; small networks gain nothing from more
    run_dir: str | None = None  # null: runs/<model>-<property>


def load_properties(arguments: Sequence[str]) -> PropertiesConfig:
    """The settings of an .onnx file, .vnnlib files, YAML files and `key=value` arguments.

    Files that are named so take the place of those in the settings. Raises `InputError` for an unknown key (with the
    nearest right one), a wrong type, a value out of range, and where model or property are missing.
    """
    models, files = ([one for one in arguments if _is_file(one, ending)] for ending in (".onnx", ".vnnlib"))
    settings = read_settings(PropertiesConfig, [one for one in arguments if one not in (*models, *files)])
    asked = settings.properties
    if len(models) > 1:
        raise InputError(f"expected one network to repair, got {' and '.join(models)}")
    asked.model, asked.files = models[0] if models else asked.model, files or asked.files
    if asked.model is None or not asked.files:
        missing = "a network (an .onnx file)" if asked.model is None else "a property (a .vnnlib file)"
        raise InputError(f"expected dflare properties model.onnx property.vnnlib, but {missing} is missing")
    if twice := [name for name in asked.files if asked.files.count(name) > 1]:
        raise InputError(f"properties.files names {twice[0]} twice, name it once")
    check_properties(settings)
    if settings.run_dir is None:
        names = [Path(path).stem for path in (asked.model, *asked.files)]
        settings.run_dir = f"runs/{'-'.join(names)}"
    return settings


def check_properties(settings: PropertiesConfig) -> None:
    """Raise `InputError` for the first value that makes no sense."""
    asked = settings.properties
    for key, name, choices in (
        ("properties.method", asked.method, (*METHODS, NONE)),
        ("properties.output", asked.output, DECISIONS),
        ("properties.verifier", asked.verifier, (*VERIFIERS, NONE)),
    ):
        if name not in choices:
            raise InputError(f"{key} must be one of {', '.join(choices)}, got {name!r}")
    for key, share in (("properties.epsilon", asked.epsilon), ("properties.delta", asked.delta)):
        if not 0 < share < 1:
            raise InputError(f"{key} must lie strictly between 0 and 1, got {share:g}")
    for key, value, low, high in (
        ("properties.samples", asked.samples, 1, 10_000_000),
        ("properties.fresh", asked.fresh, 1, MOST_FRESH),
        ("properties.verifier_seconds", asked.verifier_seconds, 1e-3, 1e6),
        ("properties.verifier_margin", asked.verifier_margin, 0, 1e6),
        ("seed", settings.seed, 0, 2**32),
        ("threads", settings.threads, 1, 4096),
    ):
        if value is not None and not low <= value <= high:
            raise InputError(f"{key} must be in [{low}, {high}], got {value}")
    least = needed_samples(asked)
    if least > MOST_FRESH:
        raise InputError(
            f"properties.epsilon={asked.epsilon:g} with delta={asked.delta:g} takes {least:.3g} fresh samples, more "
            f"than {MOST_FRESH:g}; ask for less"
        )
    if asked.fresh is not None and asked.fresh < least:
        raise InputError(
            f"properties.fresh must be at least {least}, which epsilon={asked.epsilon:g} and delta={asked.delta:g} "
            f"take without a single violation, got {asked.fresh}"
        )


def fresh_samples(asked: PropertySettings) -> int:
    """How many samples each statement takes."""
    return needed_samples(asked) if asked.fresh is None else asked.fresh


def needed_samples(asked: PropertySettings) -> int:
    """The least n with (1 - epsilon)^n <= delta / number of files, as `repair.properties.pac.samples_needed`."""
    needed = math.log(asked.delta / max(1, len(asked.files))) / math.log1p(-asked.epsilon)
    return math.ceil(min(needed, 1e18))  # an epsilon of next to nothing gives infinity


def _is_file(argument: str, ending: str) -> bool:
    return argument.lower().endswith(ending) and ("=" not in argument or Path(argument).is_file())
