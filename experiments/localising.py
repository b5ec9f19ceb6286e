"""Which layers answer for a round's deviations: `layers.json` in the round's folder."""

import json
from pathlib import Path

import torch
from torch import Tensor

from dflare.classifiers import Classifier, ask
from dflare.errors import InputError
from dflare.triggers import Side, TriggerSet
from experiments.config import Localise
from experiments.files import write_atomic
from experiments.oracle import Oracle
from experiments.terminal import say
from repair.locating.localisation import localise
from repair.locating.ranking import as_dict
from repair.trainable import Trainable

HALVINGS = 10
"""Of the way between two seeds, which leaves less than a grey level of most pixels."""


def localise_round(settings: Localise, oracle: Oracle, model: Path, found: TriggerSet | None, folder: Path) -> None:
    """Write `layers.json` to a round's folder for the model that entered it, from its train triggers; once.

    Nothing where `settings.method` is null, without triggers, and for a model whose layers cannot be told apart.
    """
    path = folder / "layers.json"
    if settings.method is None or found is None or not len(found) or path.exists():
        return
    try:
        trainable = oracle.subject.source(model).open_trainable()
    except InputError:
        return
    say(f"{folder.name.replace('-', ' ')}: which layers")
    clean = oracle.subject.sides[Side.train].images[: settings.triggers]
    triggers, seeds = (oracle.examples(images) for images in (found.images[: settings.triggers], clean))
    between = oracle.examples(boundary(oracle.original, clean))
    try:
        ranking = localise(trainable, triggers, seeds, settings.method, open_original(oracle), between)
    except InputError as error:
        say(f"no layers are told apart: {error}")
        return
    write_atomic(path, json.dumps(as_dict(ranking)) + "\n")


def boundary(original: Classifier, seeds: Tensor) -> Tensor:
    """Images at the original's decision boundary, uint8 (n', c, h, w), on the straight ways from seeds to others.

    Each way leads to the next seed that the original calls something else; its last image that is still called what the
    seed is, to 1/2**`HALVINGS` of the way. No compressed model had a say in which images these are. None where all
    seeds are called the same.
    """
    labels = ask(original, seeds, "original").argmax(-1)
    others = [_next(labels, row) for row in range(len(labels))]
    if None in others:
        return seeds[:0]
    ends = seeds[torch.tensor(others)]
    low, high = torch.zeros(len(seeds)), torch.ones(len(seeds))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        same = ask(original, between(seeds, ends, middle), "original").argmax(-1) == labels
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    return between(seeds, ends, low)


def _next(labels: Tensor, row: int) -> int | None:
    """The first row after this one, from the start again after the last, that has another label."""
    other = (labels.roll(-row) != labels[row]).nonzero()
    return (int(other[0]) + row) % len(labels) if len(other) else None


def between(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Images a share (n,) in [0, 1] of the way from some images to others, uint8 (n, c, h, w) all."""
    way = share[:, None, None, None]
    return (start * (1 - way) + end * way).round().clamp(0, 255).to(torch.uint8)


def open_original(oracle: Oracle) -> Trainable | None:
    """The original opened for repair, None where it is no file or stays closed."""
    file = oracle.subject.files.get("original")
    if file is None:
        return None
    try:
        return oracle.subject.sources["original"].open_trainable()
    except InputError:
        return None


def need_original(oracle: Oracle, correction: str) -> Trainable:
    """The original opened for repair, for the correction of a recipe; raises `InputError` where it stays closed."""
    opened = open_original(oracle)
    if opened is None:
        raise InputError(
            f"correction={correction} of the repair's recipe needs an original in an .onnx or .pt2 file; "
            "set correction to none"
        )
    return opened
