"""Settings of `dflare properties robustness.images=...`: robustness repair of images. Imports no model code."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dflare.errors import InputError
from experiments.config import Data, Models, Pair, Split
from experiments.properties_config import MOST_FRESH, NONE, VERIFIERS
from experiments.settings import find_file, read_settings, read_yaml

METHODS = ("hinge", "birdnn-retrain", "plain")
"""Repairs by name, as `repair.properties.ball_cases` has them."""


@dataclass
class RobustnessSettings:
    """In which balls a classifier must give one answer, and how it is repaired so that it does."""

    images: int = 50  # misbehaving ones to repair; as many unseen ones judge, and four times as many calm ones
    radius: float = 0.02  # L-inf, of pixels in [0, 1]
    method: str = METHODS[0]  # hinge, birdnn-retrain, plain (hinge alone, a control), none (only the statement)
    candidates: int = 1000  # images of each side among which they are looked for
    clean: int = 2000  # other images whose scores are kept
    steps: int = 150  # of hinge and plain
    epsilon: float = 1e-3  # mean violation rate of the repaired balls that the model must stay below
    delta: float = 1e-3  # chance that the statement is wrong
    fresh: int | None = None  # draws of the statement; null: as few as epsilon and delta take without a violation
    verifier: str = NONE  # highs: prove or refute some of the balls, before and after; or none
    verifier_balls: int = 5  # the first of those that are repaired
    verifier_seconds: float = 60.0  # for each
    verifier_margin: float = 0.0  # of scores: how far from every violation a certificate keeps
    export: str | None = None  # folder for the claims about these balls as .onnx and .vnnlib; null: not written


@dataclass
class RobustnessConfig:
    """All settings of a robustness repair."""

    robustness: RobustnessSettings = field(default_factory=RobustnessSettings)
    model: str | None = None  # an .onnx or .pt2 file; wanted are the labels of the images
    pair: Pair = field(default_factory=Pair)  # in its place, pair.original says what pair.compressed is to answer
    models: Models = field(default_factory=Models)  # how they are shown images; `compressed` is what is repaired
    data: Data = field(default_factory=Data)
    split: Split = field(default_factory=Split)
    seed: int = 0
    threads: int | None = None  # of torch; null: as many as there are cores
    run_dir: str | None = None  # null: runs/<model>-robustness

    @property
    def repaired(self) -> Path:
        """The file that is to be repaired."""
        return Path(str(self.pair.compressed if self.model is None else self.model))


def asks_for_robustness(arguments: Sequence[str]) -> bool:
    """Whether the command line, or a YAML file in it, is about robustness of images."""
    files = [one for one in arguments if one.endswith((".yaml", ".yml")) and "=" not in one]
    return any(one.startswith("robustness.") for one in arguments) or any(
        "robustness" in read_yaml(find_file(one)) for one in files
    )


def load_robustness(arguments: Sequence[str]) -> RobustnessConfig:
    """The settings of YAML files and `key=value` arguments.

    Raises `InputError` for an unknown key (with the nearest right one), a wrong type, a value out of range, and where
    the model or the images are missing.
    """
    settings = read_settings(RobustnessConfig, arguments)
    pair = settings.pair
    if pair.name is not None or pair.download:
        raise InputError("robustness takes a file, model=..., or pair.original and pair.compressed, got pair.name")
    if settings.model is not None and (pair.original is not None or pair.compressed is not None):
        raise InputError("expected either model or pair.original and pair.compressed, got both")
    if settings.model is None and (pair.original is None or pair.compressed is None):
        raise InputError(
            "expected the model to repair, model=file.onnx, or pair.original and pair.compressed, but "
            + ("none is given" if pair.original is pair.compressed is None else "one of the pair is missing")
        )
    if settings.data.name is None and settings.data.root is None:
        raise InputError("expected images: data.root, a folder or file of them, or data.name, but both are missing")
    check_robustness(settings)
    if settings.run_dir is None:
        settings.run_dir = f"runs/{settings.repaired.stem}-robustness"
    return settings


def check_robustness(settings: RobustnessConfig) -> None:
    """Raise `InputError` for the first value that makes no sense."""
    asked = settings.robustness
    for key, name, choices in (("method", asked.method, METHODS), ("verifier", asked.verifier, VERIFIERS)):
        if name not in (*choices, NONE):
            raise InputError(f"robustness.{key} must be one of {', '.join((*choices, NONE))}, got {name!r}")
    for key, share in (("epsilon", asked.epsilon), ("delta", asked.delta)):
        if not 0 < share < 1:
            raise InputError(f"robustness.{key} must lie strictly between 0 and 1, got {share:g}")
    for key, value, low, high in (
        ("robustness.images", asked.images, 1, 100_000),
        ("robustness.radius", asked.radius, 1e-6, 1),
        ("robustness.candidates", asked.candidates, 1, 1_000_000),
        ("robustness.clean", asked.clean, 1, 1_000_000),
        ("robustness.steps", asked.steps, 1, 1_000_000),
        ("robustness.fresh", asked.fresh, 1, MOST_FRESH),
        ("robustness.verifier_balls", asked.verifier_balls, 1, 100_000),
        ("robustness.verifier_seconds", asked.verifier_seconds, 1e-3, 1e6),
        ("robustness.verifier_margin", asked.verifier_margin, 0, 1e6),
        ("seed", settings.seed, 0, 2**32),
        ("threads", settings.threads, 1, 4096),
        ("data.image_size", settings.data.image_size, 4, 4096),
    ):
        if value is not None and not low <= value <= high:
            raise InputError(f"{key} must be in [{low:g}, {high:g}], got {value:g}")
    least = needed_draws(asked)
    if least > MOST_FRESH or (asked.fresh is not None and asked.fresh < least):
        raise InputError(
            f"robustness.epsilon={asked.epsilon:g} with delta={asked.delta:g} takes at least {least} fresh draws "
            "without a single violation, but robustness.fresh is "
            + (f"at most {MOST_FRESH}; ask for less" if asked.fresh is None else f"{asked.fresh}")
        )


def needed_draws(asked: RobustnessSettings) -> int:
    """The least n with (1 - epsilon)^n <= delta, as `repair.properties.pac.samples_needed`."""
    return math.ceil(min(math.log(asked.delta) / math.log1p(-asked.epsilon), 1e18))
