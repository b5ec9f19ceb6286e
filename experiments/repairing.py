"""The repair stage: a model from a file into a trained one in a folder, finishing what an earlier try left undone."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from dflare.errors import InputError
from dflare.triggers import Side
from experiments.config import Config
from experiments.files import read_json, write_atomic
from experiments.oracle import Oracle
from experiments.terminal import quiet
from repair.data import Mixture, RepairData
from repair.fit import Fitted, Schedule, fit, fit_steps
from repair.opening import open_trainable
from repair.recipes import find_recipe


@dataclass(frozen=True)
class Training:
    """What one training left behind, in `training.json` beside its model."""

    steps: int  # optimiser steps behind the model
    score: float | None  # on the validate side
    seconds: float
    triggers: int


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
) -> Path:
    """Train a copy of the model `start` and write it to `folder`, checked; its path. Done once, kept afterwards.

    `images` are the triggers to learn (or their clean seeds, for a placebo) and the validate side's triggers.
    With `steps` exactly so many are taken; without, the validate side says when to stop.
    """
    target = folder / f"model{start.suffix}"
    if (folder / "training.json").exists() and target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    options, trainable = settings.repair, open_trainable(start, oracle.subject.source(start).interface)
    learn, watch = images
    if len(learn) and steps != 0:
        schedule = Schedule(
            options.steps,
            learning_rate,
            min(options.validate_every, options.steps),
            options.patience,
            oracle.subject.placer.device,
            progress=not quiet(),
            precision=settings.trainer.precision,
        )
        data = _data(settings, oracle, learn, watch, seed)
        recipe = find_recipe(options.recipe)
        logger = TensorBoardLogger(logs.parent, name=logs.name, version="") if logs is not None else False
        if steps is None:
            fitted = fit(trainable, data, recipe, schedule, folder / "checkpoints", logger)
        else:
            fitted = fit_steps(trainable, data, recipe, schedule, steps)
    else:
        fitted = Fitted({name: weight.detach() for name, weight in trainable.module.named_parameters()}, 0, None)
    trainable.write(fitted.weights, target)
    trainable.check(target)
    training = Training(fitted.steps, fitted.score, time.monotonic() - began, len(learn))
    write_atomic(folder / "training.json", json.dumps(asdict(training)) + "\n")
    return target


def read_training(folder: Path) -> Training:
    """What `train_model` left in a folder."""
    path = folder / "training.json"
    try:
        return Training(**read_json(path))
    except TypeError as error:
        raise InputError(f"expected what a training left in {path}, got something else: {error}") from error


def _data(settings: Config, oracle: Oracle, learn: Tensor, watch: Tensor, seed: int) -> RepairData:
    options = settings.repair
    clean = oracle.clean_examples(Side.train)
    mixture = Mixture(oracle.examples(learn), clean, options.batch_size, options.replay, seed)
    validate = oracle.clean_examples(Side.validate)
    return RepairData(mixture, min(options.validate_every, options.steps), oracle.examples(watch), validate)
