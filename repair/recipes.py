"""Recipes of a repair: rows of a table, not classes. Each is a choice of parts, by name."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from dflare.errors import InputError
from repair.free import read_rule, scales_of
from repair.integers.bias_correction import CORRECTIONS
from repair.integers.rounding import ROUNDINGS
from repair.losses import LOSSES, make_loss
from repair.optimizers import OPTIMIZERS, SCHEDULES
from repair.orders import Balance, kinds, label_pairs
from repair.trainable import Scales

BALANCES: dict[str, Balance | None] = {"none": None, "pairs": label_pairs, "clusters": kinds}
"""Name -> the groups (n,) of triggers that weigh the same, see `Balance`; None: all alike."""


@dataclass(frozen=True)
class Recipe:
    """What is minimised, over which weights and images, and how; steps and learning rate come with the schedule.

    Raises `InputError` for a part that is in no table and a number out of range.
    """

    loss: str = "imitation"  # of `LOSSES`
    options: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))  # of the loss, by name
    free: str = "all"  # what may change, a rule of `FREE`
    rounding: str = "nearest"  # of `ROUNDINGS`: how integers are found
    correction: str = "none"  # of `CORRECTIONS`, before the training
    balance: str = "none"  # of `BALANCES`: which triggers are shown equally often
    replay: float | None = None  # share of clean images in a batch, in [0, 1]; None: the setting repair.replay
    anchor: float = 0.0  # strength of `Anchor`, >= 0; 0: none
    optimizer: str = "adam"  # of `OPTIMIZERS`
    schedule: str = "cosine"  # of `SCHEDULES`
    rate: float = 1.0  # what the learning rate is multiplied by, > 0
    about: str = ""  # one sentence for a reader

    def __post_init__(self) -> None:
        for name, table in (
            ("loss", LOSSES),
            ("rounding", ROUNDINGS),
            ("correction", CORRECTIONS),
            ("balance", BALANCES),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
        ):
            if getattr(self, name) not in table:
                raise InputError(f"{name} must be one of {', '.join(table)}, got {getattr(self, name)!r}")
        make_loss(self.loss, self.options)
        read_rule(self.free)
        for name, number in self.options.items():
            _check(f"options.{name}", number, number >= 0, "of at least 0")
        _check("anchor", self.anchor, self.anchor >= 0, "of at least 0")
        _check("rate", self.rate, self.rate > 0, "above 0")
        if self.replay is not None:
            _check("replay", self.replay, 0 <= self.replay <= 1, "in [0, 1]")

    @property
    def scales(self) -> Scales:
        """Which scales the model's file must be opened for."""
        return scales_of(self.free)

    def parts(self) -> dict[str, object]:
        """The recipe as plain values by key, without its sentence: what a recipe file takes."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "about"}
        return values | {"options": dict(self.options)}


def _check(name: str, number: float, holds: bool, words: str) -> None:
    if not (math.isfinite(number) and holds):
        raise InputError(f"{name} must be a number {words}, got {number}")


RECIPES: dict[str, Recipe] = {
    "imitation": Recipe(about="KL to the original's outputs on triggers and replayed clean images; the default"),
    "labels": Recipe(loss="labels", about="cross-entropy to the data set's labels, else to the original's answers"),
    "hinge": Recipe(loss="hinge", about="triggers until the original's answer leads by a margin, KL on clean images"),
    "lead": Recipe(loss="lead", about="imitation with a light hinge on all images, for students with few weights"),
    "margin": Recipe(loss="margin", about="imitation in which triggers near the original's own boundary weigh more"),
    "logits": Recipe(loss="logits", about="mean squared difference of centred logits"),
    "calibrated": Recipe(loss="calibrated", about="imitation that also keeps the average confidence the original's"),
    "soft": Recipe(loss="soft", about="imitation at a temperature of 4, as students of few bits are distilled"),
    "last": Recipe(free="last", about="imitation by the last layer alone"),
    "bias": Recipe(free="bias", about="imitation by biases and normalisation scales alone"),
    "responsible": Recipe(free="responsible:4", about="imitation by the four tensors with the largest gradients"),
    "scales": Recipe(free="scales", rate=3.0, about="imitation by the scales of weights and activations alone (LSQ)"),
    "limits": Recipe(free="limits", rate=3.0, about="imitation by the scales, and so the limits, of activations alone"),
    "weights+scales": Recipe(free="all+scales", about="imitation by weights and all scales together (LSQ)"),
    "rounding": Recipe(rounding="learned", rate=100.0, about="imitation by rounding each weight up or down (AdaRound)"),
    "corrected": Recipe(correction="bias", about="imitation after the biases took away the mean error of each layer"),
    "balanced": Recipe(balance="pairs", about="imitation in which each pair of labels comes up equally often"),
    "clustered": Recipe(balance="clusters", about="imitation in which each kind of image comes up equally often"),
    "anchored": Recipe(anchor=1000.0, about="imitation held to the weights that came in (L2-SP)"),
    "sgd": Recipe(optimizer="sgd", rate=10.0, about="imitation by SGD with momentum, at ten times the learning rate"),
    "adamw": Recipe(optimizer="adamw", about="imitation by Adam with weight decay"),
    "constant": Recipe(schedule="constant", about="imitation at a learning rate that does not decay"),
}
"""Name -> recipe; each row but the first changes one part of it. Combinations are files, see `recipe_files`."""


def find_recipe(name: str) -> Recipe:
    """A recipe by name, or in a YAML file, shipped or one's own; raises `InputError` for an unknown or wrong one."""
    if name in RECIPES:
        return RECIPES[name]
    from repair.recipe_files import recipe_file

    return recipe_file(name, list(RECIPES))


def recipe_names(rows: Iterable[str], shipped: Iterable[str]) -> str:
    """What `repair.recipe` may say, in words."""
    return f"{', '.join([*rows, *shipped])}, or a .yaml file"
