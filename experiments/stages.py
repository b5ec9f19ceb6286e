"""The stages of a round. Each reads and writes the run folder only, and finishes what an earlier try left undone."""

import json
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from tqdm import tqdm

from dflare.errors import InputError
from dflare.search import Ending, Search
from dflare.seeds import Seeds
from dflare.shards import Shards, read_endings, read_triggers, shard_side, write_index
from dflare.strategies import make_kernel
from dflare.triggers import Side, TriggerSet, concatenate
from experiments.config import Config
from experiments.files import read_json, write_atomic
from experiments.oracle import Oracle
from experiments.subject import Subject
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


def search_side(
    subject: Subject, settings: Config, model: Path | None, folder: Path, side: Side, seed: int, label: str
) -> None:
    """Search a side's first seeds for deviations of a compressed model; chains already in the folder are kept.

    Raises `TimeoutError` when `search.max_seconds` is over.
    """
    options, seeds = settings.search, side_seeds(subject, settings, side)
    shards = Shards(folder, largest=options.batch_size)
    done = read_endings(folder).side(side).seeds
    left = seeds.take(~torch.isin(seeds.ids, done))
    start = time.monotonic()
    search = Search(
        make_kernel(options.strategy, options.mutations),
        subject.pair(model),
        subject.pair(model),
        seed,
        options.max_queries,
        options.batch_size,
        lambda: options.max_seconds is not None and time.monotonic() - start > options.max_seconds,
    )
    late = False
    with tqdm(total=len(seeds), initial=len(done), desc=label, unit="seed", disable=_quiet()) as bar:
        try:
            for ended in search.run([left] if len(left) else []):
                shards.add(side, ended)
                late |= ended.ending is Ending.timed_out
                bar.update(len(ended.chains))
        finally:
            shards.flush()
    if late:
        raise TimeoutError(f"search.max_seconds={options.max_seconds:g} is over; run the same command to continue")
    write_index(folder)


def side_seeds(subject: Subject, settings: Config, side: Side) -> Seeds:
    """The seeds that a search of the side takes."""
    options = settings.search
    counts = {Side.train: options.seeds, Side.validate: options.validate_seeds, Side.judge: options.judge_seeds}
    return subject.sides[side].take(slice(counts[side]))


def check_hope(folder: Path, side: Side) -> None:
    """Raise `InputError` when the pair deviates on every seed of a searched side: nothing is left to search for."""
    endings = read_endings(folder).side(side)
    if bool(endings.which(Ending.already).all()):
        raise InputError(
            f"expected a seed on which the pair agrees, but original and compressed deviate on all {len(endings)} "
            f"seeds of the {side.name} side; do both take the same images in [0, 1]?"
        )


def inherit_search(source: Path, target: Path) -> None:
    """Start a folder with the judge side's results of another search of the same model."""
    if target.exists() or not source.exists():
        return
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for path in sorted(source.glob("triggers-*.npz")):
        if shard_side(path) is Side.judge:
            shutil.copyfile(path, temporary / path.name)
    temporary.rename(target)


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
    options, trainable = settings.repair, open_trainable(start)
    learn, watch = images
    if len(learn) and steps != 0:
        schedule = Schedule(
            options.steps,
            learning_rate,
            min(options.validate_every, options.steps),
            options.patience,
            settings.trainer.accelerator,
            progress=not _quiet(),
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
    return Training(**read_json(folder / "training.json"))


def triggers_of(folders: list[Path], side: Side) -> TriggerSet | None:
    """The triggers of one side in several folders, the earliest first; None where there are none."""
    sets = [found.side(side) for folder in folders if (found := read_triggers(folder)) is not None]
    return concatenate(sets) if sets else None


def _data(settings: Config, oracle: Oracle, learn: Tensor, watch: Tensor, seed: int) -> RepairData:
    options = settings.repair
    clean = oracle.clean_examples(Side.train)
    mixture = Mixture(oracle.examples(learn), clean, options.batch_size, options.replay, seed)
    validate = oracle.clean_examples(Side.validate)
    return RepairData(mixture, min(options.validate_every, options.steps), oracle.examples(watch), validate)


def _quiet() -> bool:
    return not sys.stderr.isatty()


def say(text: str) -> None:
    """Tell a person at a terminal what happens now; nothing where nobody looks."""
    if not _quiet():
        print(text, file=sys.stderr)
