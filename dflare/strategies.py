"""Search strategies: each is a choice of parts, by name."""

from collections.abc import Sequence

from dflare import fitness, selection
from dflare.chain import Kernel
from dflare.errors import InputError
from dflare.mutations import MUTATIONS

STRATEGIES = {
    "dflare": (selection.retry, fitness.divergence_and_novelty, fitness.not_worse),
    "no-novelty": (selection.retry, fitness.divergence, fitness.not_worse),
    "no-selection": (selection.uniform, fitness.divergence_and_novelty, fitness.not_worse),
    "random": (selection.uniform, fitness.divergence, fitness.always),
}
"""Name -> selection, fitness, acceptance: DFLARE as published, its two ablations, and the random walk."""


def make_kernel(strategy: str, mutations: Sequence[str] = tuple(MUTATIONS)) -> Kernel:
    """The kernel of a strategy by name over mutations by name; raises `InputError` for unknown names."""
    if strategy not in STRATEGIES:
        raise InputError(f"search.strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
    unknown = [name for name in mutations if name not in MUTATIONS]
    if unknown or not mutations:
        came = repr(unknown[0]) if unknown else "none"
        raise InputError(f"search.mutations must be some of {', '.join(MUTATIONS)}, got {came}")
    select, fit, accept = STRATEGIES[strategy]
    return Kernel([MUTATIONS[name] for name in mutations], select, fit, accept)
