"""Repair by the search methods of the literature in a run: Arachne, NeuRecover, CARE, BIRDNN."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dflare.triggers import Side
from experiments.config import Config
from experiments.localising import open_original
from experiments.oracle import Oracle
from experiments.repairing import unmoved, write_trained
from repair.data import Examples
from repair.locating.localisation import matched
from repair.locating.watched import Watched
from repair.search_based.fitting import Task, fit_search
from repair.search_based.neurecover import History
from repair.search_based.recipes import SEARCH_RECIPES
from repair.search_based.sample import Sample, agrees
from repair.trainable import Trainable

CLEAN = 10_000
"""Clean images of the train side that a search draws from, at most."""


def train_by_search(
    settings: Config,
    oracle: Oracle,
    start: Path,
    target: Path,
    images: tuple[Tensor, Tensor],
    seed: int,
    learning_rate: float,
    steps: int | None,
    free: Sequence[str] | None,
) -> Path:
    """Repair a copy of the model `start` by a search and write it to `target`, checked; its path.

    The arguments are those of `experiments.repairing.train_model`. `repair.steps` caps the published iterations; `free`
    names what an earlier search moved (a weight by its place, a neuron by its number), for a placebo. A search that is
    killed begins anew and ends the same.
    """
    began, (learn, watch) = time.monotonic(), images
    recipe, options = SEARCH_RECIPES[settings.repair.recipe], settings.repair
    trainable = oracle.subject.source(start).open_trainable()
    most = options.steps if recipe.steps is None else min(recipe.steps, options.steps)
    if len(learn) and steps != 0:
        task = Task(
            trainable,
            oracle.examples(learn),
            _clean(oracle, seed),
            most if steps is None else steps,
            options.batch_size,
            options.replay,
            learning_rate * recipe.rate,
            seed,
            free,
            lambda sample: _history(oracle, start, trainable, sample),
        )
        validate = (oracle.examples(watch), oracle.clean_examples(Side.validate)) if steps is None else None
        fitted = fit_search(recipe.method, task, validate, options.validate_every, options.patience)
    else:
        fitted = unmoved(trainable)
    return write_trained(trainable, fitted, target, began, len(learn), recipe.parts())


def _clean(oracle: Oracle, seed: int) -> Examples:
    """Clean images of the train side, drawn by the seed, with the original's probabilities."""
    every = oracle.clean_examples(Side.train)
    rows = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))[:CLEAN]
    return Examples(every.images[rows], every.targets[rows])


def _history(oracle: Oracle, start: Path, trainable: Trainable, sample: Sample) -> History:
    """What was before `start`: the original, or, for a later round, the compressed model that was handed in.

    From the original nothing improves, and its weights are known where the layers have the same shapes. In a later
    round triggers have been fixed since, and others broken; where there are none of a kind, it is as in a first round.
    """
    if start == oracle.subject.compressed_file():
        return History(sample.negative, sample.positive, matched(Watched(trainable), open_original(oracle)))
    earlier = oracle.subject.source().open_trainable()
    then, now = agrees(earlier, sample.negative), agrees(trainable, sample.negative)
    shapes = {name: weight.shape for name, weight in trainable.module.named_parameters()}
    weights = {name: weight.detach() for name, weight in earlier.module.named_parameters()}
    before = {name: weight for name, weight in weights.items() if shapes.get(name) == weight.shape}
    return History(
        _some(sample.negative, then & ~now) or sample.negative,
        _some(sample.negative, ~then & now) or sample.positive,
        before,
    )


def _some(examples: Examples, rows: Tensor) -> Examples | None:
    return Examples(examples.images[rows], examples.targets[rows]) if bool(rows.any()) else None
