"""Settings of `dflare properties agreement.seeds=...`: local agreement of a pair. Imports no model code."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from dflare.errors import InputError
from experiments.config import Config
from experiments.properties_config import NONE, VERIFIERS
from experiments.settings import load_config, read_settings


@dataclass
class AgreementSettings:
    """Around which images a pair must agree, and who decides that."""

    seeds: int = 10  # the first images of the judge side
    radius: float = 0.005  # L-inf, of pixels in [0, 1]
    verifier: str = VERIFIERS[0]  # highs, none (an attack alone)
    seconds: float = 60.0  # for each image
    margin: float = 0.0  # of scores: how far from every deviation a certificate keeps
    export: str | None = None  # folder for the claims as .onnx and .vnnlib; null: they are not written


@dataclass
class AgreementKeys:
    """The keys that come on top of those of a run."""

    agreement: AgreementSettings = field(default_factory=AgreementSettings)


def asks_for_agreement(arguments: Sequence[str]) -> bool:
    """Whether the command line is about a pair and not about one network's properties."""
    return any(argument.startswith("agreement.") for argument in arguments)


def load_agreement(arguments: Sequence[str]) -> tuple[AgreementSettings, Config]:
    """The settings of agreement, and those of pair and data as of any other verb.

    Raises `InputError` for a wrong key, type or range.
    """
    mine = [argument for argument in arguments if argument.startswith("agreement.")]
    asked = read_settings(AgreementKeys, mine).agreement
    if asked.verifier not in (*VERIFIERS, NONE):
        raise InputError(f"agreement.verifier must be one of {', '.join((*VERIFIERS, NONE))}, got {asked.verifier!r}")
    for key, value, low, high in (
        ("seeds", asked.seeds, 1, 1_000_000),
        ("radius", asked.radius, 1e-6, 1),
        ("seconds", asked.seconds, 1e-3, 1e6),
        ("margin", asked.margin, 0, 1e6),
    ):
        if not low <= value <= high:
            raise InputError(f"agreement.{key} must be in [{low:g}, {high:g}], got {value:g}")
    return asked, load_config([argument for argument in arguments if argument not in mine])
