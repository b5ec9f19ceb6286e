"""Fine-tune a compressed model that stays compressed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import Logger
from torch import Tensor

from repair import lightning
from repair.anchor import Anchor
from repair.compression import Compressed
from repair.data import RepairData
from repair.devices import CPU, on_device, trainer_options
from repair.free import choose_free, freeze
from repair.losses import make_loss
from repair.module import Batch, Repair
from repair.optimizers import OPTIMIZERS, SCHEDULES
from repair.recipes import Recipe
from repair.trainable import Trainable

SCORE = "validate/score"
LAST = "last.ckpt"


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
    """Train until the validate side's score stops rising, and return the best weights seen.

    `free` names the weights that may change, in place of the recipe's rule. Checkpoints go to `folder`; where it
    holds some, training continues from the last and ends as if never stopped.
    """
    best = ModelCheckpoint(
        folder,
        "best",
        monitor=SCORE,
        mode="max",
        save_top_k=1,
        save_on_train_epoch_end=False,
        enable_version_counter=False,  # a continued training writes over the one it repeats
    )
    stop = EarlyStopping(SCORE, mode="max", patience=schedule.patience, check_on_train_epoch_end=False)
    names = _free(trainable, data, recipe, free)
    module = _module(trainable, recipe, schedule)
    trainer = _trainer(schedule, schedule.steps, [best, stop, _SaveLast(folder)], logger)
    last = folder / LAST
    with on_device(module, torch.device(schedule.device)):
        lightning.run(trainer, module, datamodule=data, ckpt_path=last if last.is_file() else None, weights_only=True)
    saved = torch.load(folder / "best.ckpt", weights_only=True, map_location="cpu")
    module.load_state_dict(saved["state_dict"])
    score = float(saved["callbacks"][best.state_key]["best_model_score"])
    return Fitted(_weights(module), int(saved["global_step"]), score, names)


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
    module = _module(trainable, recipe, schedule)
    trainer = _trainer(schedule, steps, [], logger=False, validate=False)
    with on_device(module, torch.device(schedule.device)):
        lightning.run(trainer, module, datamodule=data)
    return Fitted(_weights(module), steps, None, names)


class _SaveLast(Callback):
    """Keep the state at the start of the current epoch, the one moment from which Lightning continues exactly."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        temporary = self.folder / f".{LAST}.tmp"
        trainer.save_checkpoint(temporary)
        temporary.rename(self.folder / LAST)


def _free(trainable: Trainable, data: RepairData, recipe: Recipe, free: Sequence[str] | None) -> tuple[str, ...]:
    """Freeze all weights but those that may change; their names."""
    names = choose_free(trainable, recipe.free, data.mixture.triggers) if free is None else free
    freeze(trainable, names)
    return tuple(names)


def _module(trainable: Trainable, recipe: Recipe, schedule: Schedule) -> Repair:
    student = Compressed(trainable.module, trainable.plan, trainable.shown)
    minimised = make_loss(recipe.loss, recipe.options)

    def loss(scores: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        return minimised(scores.float(), batch)  # 16 bits in mixed precision

    return Repair(
        student,
        loss,
        schedule.learning_rate * recipe.rate,
        SCHEDULES[recipe.schedule](schedule.steps),
        OPTIMIZERS[recipe.optimizer],
        Anchor(student, recipe.anchor) if recipe.anchor else None,
    )


def _trainer(
    schedule: Schedule, steps: int, callbacks: list[Callback], logger: Logger | bool, validate: bool = True
) -> pl.Trainer:
    with lightning.quiet():
        return pl.Trainer(
            **trainer_options(torch.device(schedule.device), schedule.precision),
            max_steps=steps,
            max_epochs=-1,
            callbacks=callbacks,
            logger=logger,
            log_every_n_steps=min(10, schedule.validate_every),
            limit_val_batches=None if validate else 0,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,
            enable_checkpointing=bool(callbacks),
            enable_model_summary=False,
            enable_progress_bar=schedule.progress,
        )


def _weights(module: Repair) -> dict[str, Tensor]:
    student = module.student
    assert isinstance(student, Compressed)
    with torch.no_grad():
        return {name: weight.detach().cpu().clone() for name, weight in student.weights().items()}
