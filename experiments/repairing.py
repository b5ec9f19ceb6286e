"""The repair stage: a model from a file into a trained one in a folder, finishing what an earlier try left undone."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from dflare.classifiers import Outputs, ask
from dflare.errors import InputError
from dflare.triggers import Side, TriggerSet
from experiments.clustering import features_of
from experiments.config import Config
from experiments.files import read_json, write_atomic
from experiments.localising import need_original
from experiments.opening import HEAD_FILE
from experiments.oracle import Oracle
from experiments.terminal import quiet
from repair.compression import Compressed
from repair.data import Examples, Mixture, RepairData
from repair.fit import Fitted, Schedule, fit, fit_steps
from repair.integers.bias_correction import CORRECTIONS
from repair.outputs.recipes import OUTPUT_RECIPES
from repair.recipes import BALANCES, Recipe, find_recipe
from repair.search_based.recipes import SEARCH_RECIPES
from repair.trainable import Trainable

CORRECTED = 1000
"""Clean images of the train side by which a model is corrected before its training."""


@dataclass(frozen=True)
class Training:
    """What one training left behind, in `training.json` beside its model."""

    steps: int  # optimiser steps behind the model
    score: float | None  # on the validate side
    seconds: float
    triggers: int
    free: list[str] = field(default_factory=list)  # the weights that could move
    recipe: dict[str, Any] = field(default_factory=dict)  # its parts, also where a file held them
    head: dict[str, Any] = field(default_factory=dict)  # of an output repair: its kind, bytes and microseconds


def train_model(
    settings: Config,
    oracle: Oracle,
    start: Path,
    folder: Path,
    images: tuple[Tensor, Tensor],
    *,
    seed: int,
    learning_rate: float,
    steps: int | None = None,
    logs: Path | None = None,
    found: TriggerSet | None = None,
    free: Sequence[str] | None = None,
) -> Path:
    """Train a copy of the model `start` and write it to `folder`, checked; its path. Done once, kept afterwards.

    `images` are the triggers to learn (or their clean seeds, for a placebo) and the validate side's triggers.
    With `steps` exactly so many are taken; without, the validate side says when to stop.

    A placebo is the same recipe on other images. `found` are the triggers behind the images to learn, row by row, for
    a repair and its placebo alike: their seeds tell the labels and what was said of them the balance, so that at every
    place of every batch the placebo learns the seed of the trigger that the repair learns there. `free` names the
    weights that may change where that is not the recipe's to choose: those of the repair, for its placebo. What a
    loss makes of an image (a weight by margin, a hinge) it makes of the image it is given, under the same total
    weight. Without `found` labels are what the original says, and the balance is that of the images themselves.
    """
    target = folder / model_name(settings.repair.recipe, start)
    if (folder / "training.json").exists() and target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    if settings.repair.recipe in OUTPUT_RECIPES:
        from experiments.output_repair import train_head

        return train_head(settings, oracle, target, images, seed, steps)
    if settings.repair.recipe in SEARCH_RECIPES:
        from experiments.search_repair import train_by_search

        return train_by_search(settings, oracle, start, target, images, seed, learning_rate, steps, free)
    began = time.monotonic()
    options, recipe, (learn, watch) = settings.repair, find_recipe(settings.repair.recipe), images
    trainable = oracle.subject.source(start).open_trainable(recipe.scales)
    if len(learn) and steps != 0:
        _correct(recipe, oracle, trainable)
        schedule = Schedule(
            options.steps,
            learning_rate,
            min(options.validate_every, options.steps),
            options.patience,
            oracle.subject.placer.device,
            progress=not quiet(),
            precision=settings.trainer.precision,
            strategy=settings.trainer.strategy,
        )
        groups = _groups(recipe, oracle, start, learn, found)
        data = _data(settings, recipe, oracle, _labelled(oracle, learn, found), watch, seed, groups)
        logger = TensorBoardLogger(logs.parent, name=logs.name, version="") if logs is not None else False
        if steps is None:
            fitted = fit(trainable, data, recipe, schedule, folder / "checkpoints", logger, free)
        else:
            fitted = fit_steps(trainable, data, recipe, schedule, steps, free)
    else:
        fitted = unmoved(trainable)
    return write_trained(trainable, fitted, target, began, len(learn), recipe.parts())


def unmoved(trainable: Trainable) -> Fitted:
    """The weights as they are, projected: what a training of no step leaves."""
    weights = Compressed(trainable.module, trainable.plan).weights()
    return Fitted({name: weight.detach() for name, weight in weights.items()}, 0, None)


def write_trained(
    trainable: Trainable, fitted: Fitted, target: Path, began: float, triggers: int, parts: dict[str, object]
) -> Path:
    """Write what a training came to, checked, and `training.json` beside it; `target`. `began` is of `monotonic`."""
    trainable.write(fitted.weights, target)
    trainable.check(target)
    seconds = time.monotonic() - began
    training = Training(fitted.steps, fitted.score, seconds, triggers, list(fitted.free), parts)
    write_atomic(target.with_name("training.json"), json.dumps(asdict(training)) + "\n")
    return target


def _correct(recipe: Recipe, oracle: Oracle, trainable: Trainable) -> None:
    """What the recipe corrects before the training, by clean images and the original's own layers."""

    CORRECTIONS[recipe.correction](
        trainable, lambda: need_original(oracle, recipe.correction), oracle.subject.sides[Side.train].images[:CORRECTED]
    )


def model_name(recipe: str, start: Path) -> str:
    """The name of the file that a recipe makes of the model `start`: in its format, or the head behind it."""
    return HEAD_FILE if recipe in OUTPUT_RECIPES else f"model{start.suffix}"


def read_training(folder: Path) -> Training:
    """What `train_model` left in a folder."""
    path = folder / "training.json"
    try:
        return Training(**read_json(path))
    except TypeError as error:
        raise InputError(f"expected what a training left in {path}, got something else: {error}") from error


def _data(
    settings: Config, recipe: Recipe, oracle: Oracle, learn: Examples, watch: Tensor, seed: int, groups: Tensor | None
) -> RepairData:
    options = settings.repair
    replay = options.replay if recipe.replay is None else recipe.replay
    mixture = Mixture(learn, _labelled_clean(oracle), options.batch_size, replay, seed, groups)
    validate = oracle.clean_examples(Side.validate)
    return RepairData(mixture, min(options.validate_every, options.steps), oracle.examples(watch), validate)


def _labelled_clean(oracle: Oracle) -> Examples:
    """All clean images of the train side, with the data set's labels where it has any."""
    return replace(oracle.clean_examples(Side.train), labels=oracle.subject.sides[Side.train].labels)


def _labelled(oracle: Oracle, images: Tensor, found: TriggerSet | None) -> Examples:
    """Images with the original's answers, and with the labels of the seeds that they were made from."""
    examples, side = oracle.examples(images), oracle.subject.sides[Side.train]
    if found is None or side.labels is None:
        return examples
    order = side.ids.argsort()
    rows = order[torch.searchsorted(side.ids[order], found.seeds).clamp(max=len(order) - 1)]
    if not torch.equal(side.ids[rows], found.seeds):
        raise ValueError("every trigger to learn must come from a seed of the train side")
    return replace(examples, labels=side.labels[rows])


def _groups(recipe: Recipe, oracle: Oracle, start: Path, images: Tensor, found: TriggerSet | None) -> Tensor | None:
    """Which of the images to learn weigh the same together, by the recipe's balance, (n,) int64; None: all alike."""
    balance = BALANCES[recipe.balance]
    if balance is None:
        return None
    if found is not None:  # of the triggers, for the placebo too
        return balance(found.outputs, lambda: features_of(oracle, found.images))
    pair = oracle.subject.pair(start)
    outputs = Outputs(ask(pair.original, images, "original"), ask(pair.compressed, images, "compressed"))
    return balance(outputs, lambda: features_of(oracle, images))
