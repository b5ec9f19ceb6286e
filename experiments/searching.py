"""The search stage: seeds of one side into a folder of results, finishing what an earlier try left undone."""

import shutil
import time
from pathlib import Path

import torch
from tqdm import tqdm

from dflare.chain import Kernel
from dflare.classifiers import ModelPair
from dflare.errors import InputError, OutOfTime
from dflare.references import References
from dflare.search import Ending, Search
from dflare.seeds import Seeds
from dflare.shards import Shards, read_endings, read_triggers, shard_side, write_index
from dflare.strategies import find_strategy, make_kernel
from dflare.triggers import Side, TriggerSet, concatenate
from experiments.config import Config, SearchSettings
from experiments.subject import Subject
from experiments.terminal import quiet


def search_side(
    subject: Subject, settings: Config, model: Path | None, folder: Path, side: Side, seed: int, label: str
) -> None:
    """Search a side's first seeds for deviations of a compressed model; chains already in the folder are kept.

    Raises `OutOfTime` when `search.max_seconds` is over.
    """
    options, seeds = settings.search, side_seeds(subject, settings, side)
    shards = Shards(folder, largest=options.batch_size)
    done = read_endings(folder).side(side).seeds
    left = seeds.take(~torch.isin(seeds.ids, done))
    start = time.monotonic()
    pair = subject.pair(model)
    search = Search(
        _kernel(pair, options, subject.sides[side]),
        pair,
        subject.pair(model, "confirm"),
        seed,
        options.max_queries,
        options.batch_size,
        lambda: options.max_seconds is not None and time.monotonic() - start > options.max_seconds,
    )
    late = False
    with tqdm(total=len(seeds), initial=len(done), desc=label, unit="seed", disable=quiet()) as bar:
        try:
            for ended in search.run([left] if len(left) else []):
                shards.add(side, ended)
                late |= ended.ending is Ending.timed_out
                bar.update(len(ended.chains))
        finally:
            shards.flush()
    if late:
        raise OutOfTime(f"search.max_seconds={options.max_seconds:g} is over; run the same command to continue")
    write_index(folder)


def _kernel(pair: ModelPair, options: SearchSettings, side: Seeds) -> Kernel:
    """The strategy's kernel; references are the side's own first images, so that no side learns from another."""
    needed = find_strategy(options.strategy).references
    references = References.ask(pair, side.images[: options.references], options.batch_size) if needed else None
    return make_kernel(options.strategy, options.mutations, references=references)


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


def triggers_of(folders: list[Path], *sides: Side) -> TriggerSet | None:
    """The triggers of some sides in several folders, the earliest first; None where there are none."""
    found = [triggers for folder in folders if (triggers := read_triggers(folder)) is not None]
    sets = [triggers.side(side) for triggers in found for side in sides]
    return concatenate(sets) if sets else None
