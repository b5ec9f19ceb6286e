"""Counterexamples and safe inputs of a property, drawn from its boxes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dflare.errors import InputError
from repair.properties.dense import Function
from repair.properties.property import Property
from repair.properties.splitting import split_often
from repair.properties.walks import margins, walk

BATCH = 20_000
"""Inputs that are asked at once."""

ENOUGH = 200
"""Uniform counterexamples from which walks spread; of fewer the region is looked for by splitting."""

RUNS, WALKERS = 4, 4_000
"""Splittings, and walkers in each."""

SPREAD = 15
"""Moves of every walker before its place counts as a draw: after 10 the means of ACAS Xu's boxes hardly move."""


@dataclass(frozen=True)
class Samples:
    """Inputs that violate a property and inputs that do not, without duplicates, float32 (n, inputs) each."""

    counterexamples: Tensor
    safe: Tensor
    draws: int  # uniform draws from the boxes
    hits: int  # counterexamples among them
    share: float  # estimated share of counterexamples in the boxes, in [0, 1]
    method: str  # how the counterexamples were found: uniform, walks or splitting


def draw_samples(
    network: Function, wanted: Property, n: int, generator: torch.Generator, draws: int = 3_000_000
) -> Samples:
    """n counterexamples and n safe inputs.

    Uniform draws, which are exact, as long as `draws` of them are expected to suffice. Of rarer counterexamples
    `ENOUGH` uniform ones and hit-and-run walks from them: each place is uniform too, though walks from one start
    remain neighbours for some moves. Of still rarer ones multilevel splitting and walks, uniform in the limit over
    every part of the region that was found. Raises `InputError` where no counterexample is found or no input is safe.
    """
    bad, safe, seen, hits = [], [], 0, 0
    while seen < draws and (hits < n or seen - hits < n):
        inputs = wanted.sample(BATCH, generator)
        violated = margins(network, wanted, inputs) >= 0
        bad.append(inputs[violated])
        if seen - hits < n:
            safe.append(inputs[~violated])
        seen, hits = seen + BATCH, hits + int(violated.sum())
        if seen >= draws / 20 and _settled(hits, hits / seen * draws, n):
            break
    found, calm = torch.cat(bad).unique(dim=0), torch.cat(safe).unique(dim=0)
    calm = _some(calm, n, generator)
    if len(found) >= n:
        return Samples(_some(found, n, generator), calm, seen, hits, hits / seen, "uniform")
    if hits >= ENOUGH:
        return Samples(_spread(network, wanted, found, n, generator), calm, seen, hits, hits / seen, "walks")
    rare = split_often(network, wanted, WALKERS, RUNS, generator)
    if not len(rare.inputs):
        raise InputError(
            f"no counterexample of {wanted.name} was found: not one among {seen} uniform draws and {RUNS} splittings "
            f"of {WALKERS} walkers; there may be nothing to repair"
        )
    spread = _spread(network, wanted, rare.inputs, n, generator)
    return Samples(spread, calm, seen, hits, rare.share, "splitting")


def _settled(hits: int, expected: float, n: int) -> bool:
    """Whether more uniform draws are not worth it, given how many hits are expected of all that may be drawn."""
    return expected < n and (hits >= ENOUGH or expected < ENOUGH)


def _spread(network: Function, wanted: Property, found: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n counterexamples without duplicates where walks from `found` end, (n, inputs); fewer in a tiny region."""
    starts = found[torch.randint(len(found), (n,), generator=generator)]
    places = walk(network, wanted, starts, SPREAD, generator)
    return _some(places[margins(network, wanted, places) >= 0].unique(dim=0), n, generator)


def _some(inputs: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """At most n rows in random order."""
    return inputs[torch.randperm(len(inputs), generator=generator)[:n]]
