"""Which images of a side a search starts from."""

import torch
from torch import Tensor

from dflare.errors import InputError
from dflare.seeds import Seeds

WAYS = ("random", "balanced")


def choose_seeds(seeds: Seeds, count: int, how: str, classes: Tensor | None = None) -> Seeds:
    """`count` of the seeds, or all where there are fewer, in the order of their ids.

    `random`: the first by id; ids are hashes of the pixels, so this is a fair sample and the same on every machine.
    `balanced`: the first by id of each class, as many of every class; where a class has fewer, the others fill its
    places evenly, and the last places go to the lowest ids. Classes are the seeds' labels, where they have none
    `classes` (n,) int64, such as the original's predictions.
    Both ways, fewer seeds are always among those of a greater `count`.
    Raises `InputError` for another way, a count below 1, and for `balanced` without any classes.
    """
    if how not in WAYS:
        raise InputError(f"search.choose must be one of {', '.join(WAYS)}, got {how!r}")
    if count < 1:
        raise InputError(f"the number of seeds must be at least 1, got {count}")
    ordered = seeds.ids.argsort(stable=True)
    if how == "random":
        return seeds.take(ordered[:count])
    known = classes if seeds.labels is None else seeds.labels
    if known is None or len(known) != len(seeds):
        got = "none" if known is None else f"{len(known)}"
        raise InputError(f"search.choose=balanced needs labels or predicted classes ({len(seeds)},), got {got}")
    places = _places(known[ordered])
    chosen = places.argsort(stable=True)[:count].sort().values
    return seeds.take(ordered[chosen])


def _places(classes: Tensor) -> Tensor:
    """How many earlier entries are of the same class, (n,) int64."""
    grouped = classes.argsort(stable=True)
    counts = torch.unique_consecutive(classes[grouped], return_counts=True)[1]
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    places = torch.empty_like(grouped)
    places[grouped] = torch.arange(len(classes)) - starts
    return places
