"""Search strategies: each is a choice of parts, by name."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from dflare import fitness, gradient, selection
from dflare.boundary import Boundary
from dflare.chain import Kernel
from dflare.diffchaser import DiffChaser
from dflare.errors import InputError
from dflare.gradient import Gradient, Gradients
from dflare.mutation_sets import resolve
from dflare.mutations import Mutation
from dflare.references import References
from dflare.walk import Hold, Walk, anywhere


class Parts(NamedTuple):
    """What strategies are made from: what the run's settings chose."""

    mutations: Sequence[Mutation]
    hold: Hold = anywhere
    references: References | None = None
    gradients: Gradients | None = None
    max_l_inf: float | None = None  # on [0, 1], None for no limit; for a strategy that keeps to a ball of its own


class Strategy(NamedTuple):
    """How to put a strategy together, the mutations it was published with, and what it needs beside them."""

    make: Callable[[Parts], Kernel]
    says: str  # one line for a reader
    mutations: str = "published"
    references: bool = False  # whether it uses images of other classes
    gradients: bool = False  # whether both models must be differentiable


def _dflare(parts: Parts) -> Kernel:
    return Walk(parts.mutations, selection.retry, fitness.divergence_and_novelty, fitness.not_worse, hold=parts.hold)


def _released(parts: Parts) -> Kernel:
    return Walk(
        parts.mutations,
        selection.forgetful,
        fitness.divergence,
        fitness.changed,
        first_bar=fitness.nothing,
        hold=parts.hold,
    )


def _plain(select: selection.Selection, fit: fitness.Fitness, accept: fitness.Acceptance) -> Callable[[Parts], Kernel]:
    def make(parts: Parts) -> Kernel:
        return Walk(parts.mutations, select, fit, accept, remember=False, hold=parts.hold)

    return make


def _no_selection(parts: Parts) -> Kernel:
    return Walk(parts.mutations, selection.uniform, fitness.divergence_and_novelty, fitness.not_worse, hold=parts.hold)


def _boundary(parts: Parts) -> Kernel:
    return Boundary(parts.mutations, parts.references, parts.hold)


def _diffchaser(parts: Parts) -> Kernel:
    return DiffChaser(parts.hold)


def _gradient(parts: Parts) -> Kernel:
    if parts.gradients is None:
        raise InputError(
            "search.strategy=gradient needs gradients of both models (dflare.gradient.differentiable), got none; "
            "search.strategy=boundary asks for predictions only"
        )
    return Gradient(parts.gradients, gradient.radius(parts.max_l_inf), parts.hold)


STRATEGIES: dict[str, Strategy] = {
    "dflare": Strategy(_dflare, "DFLARE as published"),
    "dflare-released": Strategy(_released, "DFLARE as its authors' code behaves", "released"),
    "no-novelty": Strategy(
        _plain(selection.retry, fitness.divergence, fitness.not_worse), "DFLARE without the bonus for new predictions"
    ),
    "no-selection": Strategy(_no_selection, "DFLARE with mutations drawn uniformly"),
    "random": Strategy(_plain(selection.uniform, fitness.divergence, fitness.always), "a random walk of mutations"),
    "diffchaser": Strategy(_diffchaser, "a population bred towards images on which the models are unsure"),
    "margin": Strategy(
        _plain(selection.retry, fitness.closeness, fitness.not_worse), "DFLARE's walk towards small margins"
    ),
    "boundary-walk": Strategy(_boundary, "rows of mutations until a boundary is crossed, then interpolation"),
    "boundary": Strategy(_boundary, "interpolation on the way to real images of other classes", references=True),
    "gradient": Strategy(
        _gradient, "gradient ascent on the DIVA objective, for two differentiable models", gradients=True
    ),
}
"""Name -> how the strategy is made."""


def find_strategy(name: str, key: str = "search.strategy") -> Strategy:
    """The strategy of that name; raises `InputError` that lists the right ones and names the setting `key`."""
    if name not in STRATEGIES:
        raise InputError(f"{key} must be one of {', '.join(STRATEGIES)}, got {name!r}")
    return STRATEGIES[name]


def make_kernel(
    strategy: str,
    mutations: Sequence[str] | None = None,
    *,
    hold: Hold = anywhere,
    references: References | None = None,
    gradients: Gradients | None = None,
    max_l_inf: float | None = None,
) -> Kernel:
    """The kernel of a strategy by name over mutations (or sets of them) by name, None for the strategy's own.

    Raises `InputError` for unknown names, and where a strategy needs gradients and gets none.
    """
    found = find_strategy(strategy)
    chosen = list(resolve([found.mutations] if mutations is None else mutations).values())
    return found.make(Parts(chosen, hold, references if found.references else None, gradients, max_l_inf))
