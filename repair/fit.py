"""Fine-tune a compressed model that stays compressed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

from dflare.errors import InputError
from repair import lightning
from repair.anchor import Anchor
from repair.compression import Compressed
from repair.data import RepairData
from repair.devices import CPU, on_device, trainer_options
from repair.free import choose_free, freeze
from repair.integers.rounding import ROUNDINGS, added
from repair.keeping import SCORE, KeepBest, SaveLast, last_of
from repair.layout import channels_last
from repair.losses import make_loss
from repair.module import Batch, Repair
from repair.optimizers import OPTIMIZERS, SCHEDULES
from repair.prefix import with_prefix
from repair.recipes import Recipe
from repair.trainable import Trainable


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a repair trains."""

    steps: int  # of the optimiser, at most; the learning rate may decay to zero over this many
    learning_rate: float  # times the recipe's rate
    validate_every: int  # steps
    patience: int  # validations without improvement after which it stops
    device: torch.device | str = CPU  # "cpu", or "cuda:1"
    progress: bool = False
    precision: str = "32-true"  # of the training's arithmetic; also 16-mixed (on a GPU) and bf16-mixed
    strategy: str = "auto"  # Lightning's, for that one device


@dataclass(frozen=True)
class Fitted:
    """The outcome of a training."""

    weights: dict[str, Tensor]  # by parameter name, projected
    steps: int  # optimiser steps behind these weights
    score: float | None  # mean agreement on the validate side's triggers and clean images, in [0, 1]
    free: tuple[str, ...] = ()  # the weights that could move


def fit(
    trainable: Trainable,
    data: RepairData,
    recipe: Recipe,
    schedule: Schedule,
    folder: Path,
    logger: Logger | bool = False,
    free: Sequence[str] | None = None,
) -> Fitted:
    """Train until the validate side's score stops rising, and return the best weights seen (see `KeepBest`).

    `free` names the weights that may change, in place of the recipe's rule. Checkpoints go to `folder`; where it
    holds some, training continues from the last and ends as if never stopped.
    """
    best = KeepBest(folder)
    stop = EarlyStopping(SCORE, mode="max", patience=schedule.patience, check_on_train_epoch_end=False)
    names = _free(trainable, data, recipe, free)
    module, data = _module(trainable, recipe, schedule, data, names, schedule.steps, validate=True)
    trainer = _trainer(schedule, schedule.steps, [best, stop, SaveLast(folder)], logger)
    last = last_of(folder)
    with on_device(module, torch.device(schedule.device)), channels_last(module.student, _shown(data)):
        lightning.run(trainer, module, datamodule=data, ckpt_path=last, weights_only=True)
    state, steps, score = best.read()
    module.load_state_dict(state)
    return Fitted(_weights(module), steps, score, names)


def fit_steps(
    trainable: Trainable,
    data: RepairData,
    recipe: Recipe,
    schedule: Schedule,
    steps: int,
    free: Sequence[str] | None = None,
) -> Fitted:
    """Train for exactly `steps` steps of the same schedule, without looking at the validate side (the placebo).

    `free` names the weights that may change, in place of the recipe's rule: for a placebo, those of the repair.
    """
    names = _free(trainable, data, recipe, free)
    module, data = _module(trainable, recipe, schedule, data, names, steps, validate=False)
    trainer = _trainer(schedule, steps, [], logger=False, validate=False)
    with on_device(module, torch.device(schedule.device)), channels_last(module.student, _shown(data)):
        lightning.run(trainer, module, datamodule=data)
    return Fitted(_weights(module), steps, None, names)


def _free(trainable: Trainable, data: RepairData, recipe: Recipe, free: Sequence[str] | None) -> tuple[str, ...]:
    """Freeze all weights but those that may change; their names."""
    names = choose_free(trainable, recipe.free, data.mixture.triggers) if free is None else free
    freeze(trainable, names)
    return tuple(names)


def _module(
    trainable: Trainable,
    recipe: Recipe,
    schedule: Schedule,
    data: RepairData,
    names: Sequence[str],
    steps: int,
    validate: bool,
) -> tuple[Repair, RepairData]:
    """What is trained and on what: from kept activations, where the beginning of the model is frozen."""
    minimised = make_loss(recipe.loss, recipe.options)

    def loss(scores: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        return minimised(scores.float(), batch)  # 16 bits in mixed precision

    trainable, penalty = ROUNDINGS[recipe.rounding](trainable, names, loss, data.mixture.__getitem__, schedule.steps)
    student = Compressed(trainable.module, trainable.plan, trainable.shown)
    if torch.device(schedule.device).type == "cpu" and schedule.precision == "32-true":
        student, data = with_prefix(trainable, names, data, steps, validate)
    anchor = Anchor(student, recipe.anchor) if recipe.anchor else None
    module = Repair(
        student,
        loss,
        schedule.learning_rate * recipe.rate,
        SCHEDULES[recipe.schedule](schedule.steps),
        OPTIMIZERS[recipe.optimizer],
        added(penalty, anchor),
    )
    return module, data


def _trainer(
    schedule: Schedule, steps: int, callbacks: list[Callback], logger: Logger | bool, validate: bool = True
) -> pl.Trainer:
    options = trainer_options(torch.device(schedule.device), schedule.precision, schedule.strategy)
    try:
        with lightning.quiet():
            return pl.Trainer(
                **options,
                max_steps=steps,
                max_epochs=-1,
                callbacks=callbacks,
                logger=logger,
                log_every_n_steps=min(10, schedule.validate_every),
                limit_val_batches=None if validate else 0,
                num_sanity_val_steps=0,
                reload_dataloaders_every_n_epochs=1,
                use_distributed_sampler=False,  # the order of the images is a function of the seed alone
                enable_checkpointing=False,  # ours are callbacks; Lightning would add one of its own
                enable_model_summary=False,
                enable_progress_bar=schedule.progress,
            )
    except (ValueError, ImportError, MisconfigurationException) as error:  # a strategy that this machine lacks
        said = str(error).strip().splitlines()[0].rstrip(".")
        raise InputError(f"trainer.strategy={schedule.strategy} cannot be used here: {said}; set it to auto") from error


def _shown(data: RepairData) -> Tensor:
    """Two images as a student takes them."""
    mixture = data.mixture
    return (mixture.triggers if len(mixture.triggers) else mixture.clean).values(slice(0, 2))


def _weights(module: Repair) -> dict[str, Tensor]:
    student = module.student
    assert isinstance(student, Compressed)
    with torch.no_grad():
        weights = {name: weight.detach().cpu() for name, weight in student.weights().items()}
    return {name: weight.clone(memory_format=torch.contiguous_format) for name, weight in weights.items()}
