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

RUNS, WALKERS = 4, 4_000
"""Splittings, and walkers in each, where uniform draws meet too few counterexamples."""

SPREAD = 30
"""Moves of every walker before its place counts as a draw: after 10 the means of ACAS Xu's boxes hardly move."""


@dataclass(frozen=True)
class Samples:
    """Inputs that violate a property and inputs that do not, without duplicates, float32 (n, inputs) each."""

    counterexamples: Tensor
    safe: Tensor
    draws: int  # uniform draws from the boxes
    hits: int  # counterexamples among them
    share: float  # estimated share of counterexamples in the boxes, in [0, 1]
    method: str  # how the counterexamples were found: uniform or splitting


def draw_samples(
    network: Function, wanted: Property, n: int, generator: torch.Generator, draws: int = 3_000_000
) -> Samples:
    """n counterexamples and n safe inputs.

    Uniform draws, which are exact, as long as `draws` of them are expected to suffice; for rarer counterexamples
    multilevel splitting and hit-and-run walks, whose draws are uniform in the limit over every part of the region
    that was found. Raises `InputError` where no counterexample is found or no input is safe.
    """
    bad, safe, seen, hits = [], [], 0, 0
    while seen < draws and (hits < n or seen - hits < n):
        inputs = wanted.sample(BATCH, generator)
        violated = margins(network, wanted, inputs) >= 0
        bad.append(inputs[violated])
        if seen - hits < n:
            safe.append(inputs[~violated])
        seen, hits = seen + BATCH, hits + int(violated.sum())
        if seen >= draws / 20 and hits / seen * draws < n:
            break
    found, calm = torch.cat(bad).unique(dim=0), torch.cat(safe).unique(dim=0)
    calm = _some(calm, n, generator)
    if len(found) >= n:
        return Samples(_some(found, n, generator), calm, seen, hits, hits / seen, "uniform")
    rare, share = _rare(network, wanted, n, generator)
    if not len(rare):
        raise InputError(
            f"no counterexample of {wanted.name} was found: not one among {seen} uniform draws and {RUNS} splittings "
            f"of {WALKERS} walkers; there may be nothing to repair"
        )
    return Samples(rare, calm, seen, hits, hits / seen if hits >= 100 else share, "splitting")


def _rare(network: Function, wanted: Property, n: int, generator: torch.Generator) -> tuple[Tensor, float]:
    """n counterexamples without duplicates, (n, inputs), and their estimated share; fewer where the region is tiny."""
    rare = split_often(network, wanted, WALKERS, RUNS, generator)
    if not len(rare.inputs):
        return rare.inputs, 0.0
    starts = rare.inputs[torch.randint(len(rare.inputs), (n,), generator=generator)]
    places = walk(network, wanted, starts, SPREAD, generator)
    found = places[margins(network, wanted, places) >= 0].unique(dim=0)
    return _some(found, n, generator), rare.share


def _some(inputs: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """At most n rows in random order."""
    return inputs[torch.randperm(len(inputs), generator=generator)[:n]]
