"""Bring the triggers of a search nearer to their seeds, finishing what an earlier try left undone."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from dflare.classifiers import ModelPair
from dflare.limits import Limits
from dflare.search import fitting_batch
from dflare.shards import read_shrunk, read_triggers, write_index, write_shrunk
from dflare.shrink import shrink
from dflare.triggers import Side, TriggerSet
from experiments.config import SearchSettings
from experiments.terminal import quiet


def limits_of(options: SearchSettings) -> Limits:
    """The limits of validity that a search is held to; raises `InputError` for numbers that make no sense."""
    return Limits(options.max_l_inf, options.max_l_2, options.min_ssim)


def shrink_side(
    pair: ModelPair, confirm: ModelPair, options: SearchSettings, folder: Path, side: Side, seed: int, label: str
) -> None:
    """Shrink the triggers of a side's finished search; those shrunk already are kept. A batch is written at a time."""
    found, known = read_triggers(folder, shrunk=False), read_shrunk(folder)
    done = set(known.identities()) if known is not None else set()
    if found is None:
        return
    found = found.side(side)
    left = found.take(torch.tensor([key not in done for key in found.identities()], dtype=torch.bool))
    if not len(left):
        return
    with tqdm(total=len(found), initial=len(found) - len(left), desc=label, unit="trigger", disable=quiet()) as bar:
        for rows in torch.arange(len(left)).split(_size(options, left.images)):
            some = left.take(rows)
            write_shrunk(folder, _shrunk(pair, confirm, options, some, seed))
            bar.update(len(some))
    write_index(folder)


def _size(options: SearchSettings, images: Tensor) -> int:
    return options.batch_size or fitting_batch(images)


def _shrunk(pair: ModelPair, confirm: ModelPair, options: SearchSettings, found: TriggerSet, seed: int) -> TriggerSet:
    """The triggers nearer to their seeds, with what both models say of them, asked alone."""
    nearer = shrink(
        pair,
        confirm,
        found.seed_images,
        found.images,
        max_queries=options.shrink_queries,
        batch_size=_size(options, found.images),
        seed=seed,
        limits=limits_of(options),
    )
    original, compressed = (scores.float().cpu() for scores in confirm.one_by_one(nearer.images))
    images, queries = nearer.images.cpu(), nearer.queries.cpu()
    return replace(found, images=images, original=original, compressed=compressed, shrink_queries=queries)
