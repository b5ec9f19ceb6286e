"""The search stage: seeds of one side into a folder of results, finishing what an earlier try left undone."""

import shutil
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from dflare.chain import Kernel
from dflare.classifiers import ModelPair
from dflare.errors import InputError, OutOfTime
from dflare.limits import Limits
from dflare.references import References
from dflare.search import Ending, Search, fitting_batch
from dflare.seeds import Seeds
from dflare.shards import Shards, read_endings, read_shrunk, read_triggers, shard_side, write_index, write_shrunk
from dflare.strategies import find_strategy, make_kernel
from dflare.triggers import Side, TriggerSet, concatenate
from dflare.walk import anywhere
from experiments.choosing import choose_seeds
from experiments.config import Config
from experiments.crew import ALONE, Crew, Outcome
from experiments.shrinking import limits_of, shrink_side
from experiments.subject import Subject
from experiments.terminal import quiet
from experiments.twins import gradients_of
from experiments.workers import Place

SEEN_WITHIN = 90.0
"""Seconds; NFS keeps a folder's listing for up to 60."""


class Task(NamedTuple):
    """A search of one side that all workers share."""

    model: Path | None  # the compressed model, None for the one handed in
    folder: Path
    side: Side
    seed: int
    left: Tensor  # (n,) int64, ids of the seeds that no worker has searched yet
    label: str
    strategy: str


def search_side(
    subject: Subject,
    settings: Config,
    model: Path | None,
    folder: Path,
    side: Side,
    seed: int,
    label: str,
    crew: Crew = ALONE,
    strategy: str | None = None,
) -> None:
    """Search a side's first seeds for deviations of a compressed model; chains already in the folder are kept.

    `strategy` stands in for `search.strategy`. The leader calls it; the other workers are told. Raises `OutOfTime`
    when `search.max_seconds` is over, `LostWorker` when a worker is gone, and what was wrong in another's share.
    """
    options, ids = settings.search, side_seeds(subject, settings, side).ids
    folder.mkdir(parents=True, exist_ok=True)
    done = read_endings(folder).side(side).seeds
    left, name = ids[~torch.isin(ids, done)], strategy or options.strategy
    task = crew.tell(Task(model, folder, side, seed, left, label, name))
    late = search_share(subject, settings, task, crew.place)
    outcomes = crew.hear(Outcome(late))
    for outcome in outcomes:
        if outcome.refusal is not None:
            raise InputError(outcome.refusal)
    if any(outcome.late for outcome in outcomes):
        raise OutOfTime(f"search.max_seconds={options.max_seconds:g} is over; run the same command to continue")
    if crew.place.world > 1:
        _see_all(folder, side, ids)
    write_index(folder)
    if options.shrink:
        pair, confirm = subject.pair(model), subject.pair(model, "confirm")
        shrink_side(pair, confirm, options, folder, side, seed, f"{label}, shrinking")


def search_share(subject: Subject, settings: Config, task: Task, place: Place) -> bool:
    """Search one worker's share of the seeds that are left, into its own shards; whether time ran out."""
    model, folder, side, seed, left, label, strategy = task
    options, seeds = settings.search, side_seeds(subject, settings, side)
    size = options.batch_size or fitting_batch(seeds.images)
    shards = Shards(folder, place.rank, size)
    share = seeds.take(torch.isin(seeds.ids, left)).share(place.rank, place.world)
    done = len(seeds) - len(left)
    start = time.monotonic()
    pair = subject.pair(model)
    search = Search(
        _kernel(strategy, pair, subject, settings, model, subject.sides[side], size),
        pair,
        subject.pair(model, "confirm"),
        seed,
        options.max_queries,
        size,
        lambda: options.max_seconds is not None and time.monotonic() - start > options.max_seconds,
    )
    ended_here = 0
    name = label if place.world == 1 else f"{label}, one of {place.world} workers"
    with tqdm(total=done + len(share), initial=done, desc=name, unit="seed", disable=quiet()) as bar:
        try:
            for ended in search.run([share] if len(share) else []):
                shards.add(side, ended)
                if ended.ending is not Ending.timed_out:
                    ended_here += len(ended.chains)
                    bar.update(len(ended.chains))
        finally:
            shards.flush()
    return ended_here < len(share)  # seeds may be left although no chain was in flight when time ran out


def _see_all(folder: Path, side: Side, ids: Tensor) -> None:
    """Wait until the other workers' shards can be read here: a network file system shows them with a delay.

    Raises `InputError` when they do not appear.
    """
    end = time.monotonic() + SEEN_WITHIN
    while not bool(torch.isin(ids, read_endings(folder).side(side).seeds).all()):
        if time.monotonic() > end:
            raise InputError(f"expected the results of all workers in {folder}; is run_dir where all nodes see it?")
        time.sleep(1)


def _kernel(
    strategy: str, pair: ModelPair, subject: Subject, settings: Config, model: Path | None, side: Seeds, size: int
) -> Kernel:
    """The strategy's kernel; references are the side's own first images, so that no side learns from another."""
    options = settings.search
    needed, references, gradients = find_strategy(strategy), None, None
    if needed.references:
        references = References.ask(pair, side.images[: options.references], size)
    if needed.gradients:
        gradients = gradients_of(subject, model)
    limits = limits_of(options)
    hold = limits.hold if limits != Limits() else anywhere
    return make_kernel(
        strategy,
        options.mutations,
        hold=hold,
        references=references,
        gradients=gradients,
        max_l_inf=options.max_l_inf,
    )


def side_seeds(subject: Subject, settings: Config, side: Side) -> Seeds:
    """The seeds that a search of the side takes."""
    options = settings.search
    counts = {Side.train: options.seeds, Side.validate: options.validate_seeds, Side.judge: options.judge_seeds}
    seeds, predicted = subject.sides[side], None
    if options.choose == "balanced" and seeds.labels is None:
        predicted = subject.predicted(side)
    return choose_seeds(seeds, counts[side], options.choose, predicted)


def check_hope(folder: Path, side: Side) -> None:
    """Raise `InputError` when the pair deviates on every seed of a searched side: nothing is left to search for."""
    endings = read_endings(folder).side(side)
    if bool(endings.which(Ending.already).all()):
        raise InputError(
            f"expected a seed on which the pair agrees, but original and compressed deviate on all {len(endings)} "
            f"seeds of the {side.name} side; are both shown what they want to see? (docs/models.md)"
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
    nearer = read_shrunk(source)
    if nearer is not None:
        write_shrunk(temporary, nearer.side(Side.judge))
    temporary.rename(target)


def triggers_of(folders: list[Path], *sides: Side) -> TriggerSet | None:
    """The triggers of some sides in several folders, the earliest first; None where there are none."""
    found = [triggers for folder in folders if (triggers := read_triggers(folder)) is not None]
    sets = [triggers.side(side) for triggers in found for side in sides]
    return concatenate(sets) if sets else None
