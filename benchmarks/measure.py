"""One row of the benchmark: a strategy on a pair, timed with one thread and without its warm-up."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

import sequential
from dflare.classifiers import to_unit
from dflare.errors import InputError
from dflare.gradient import differentiable
from dflare.references import References
from dflare.search import Ending, Search, Tally, fitting_batch
from dflare.shrink import shrink
from dflare.strategies import find_strategy, make_kernel
from experiments.config import SearchSettings
from pairs import Subject, twin

T = TypeVar("T")

SEQUENTIAL, UNTIED = "sequential", "sequential-untied"
"""Named beside the strategies: the one-image loop with the released rules, and the same where ties do not count."""

PASSES = 5
"""Batches through both models before and again after a search, from which the models' own share follows."""


@dataclass(frozen=True)
class Effort:
    """What is the same for every strategy; by default what the command `dflare search` does."""

    run_seed: int = 0
    max_queries: int = SearchSettings.max_queries
    batch_size: int | None = SearchSettings.batch_size
    references: int = (
        SearchSettings.references
    )  # training images shown to the pair beforehand, where a strategy uses any
    cpu_time: bool = False  # whether times are those of the processor; on a busy machine the steadier of the two
    shrunk: tuple[str, ...] = ("boundary",)  # strategies whose triggers are also shrunk, apart from the clock
    shrink_seeds: int = 60  # of how many of the seeds, the first ones
    shrink_queries: int = SearchSettings.shrink_queries  # a trigger's budget for that

    def batch(self, subject: Subject) -> int:
        """Images asked at once."""
        return self.batch_size or fitting_batch(subject.seeds.images)


@dataclass(frozen=True)
class Row:
    """What was measured. Times are in seconds, shares in [0, 1], distances Euclidean on [0, 1]; None: not measured.

    A seed without a trigger counts with the whole budget in the mean; a quantile beyond the found share is None.
    """

    pair: str
    network: str
    family: str
    strategy: str
    refused: str | None = None  # why there is nothing else in this row
    seeds: int = 0
    success: float | None = None
    mean: float | None = None  # queries per trigger
    median: float | None = None
    p95: float | None = None
    preflight: int | None = None  # images asked that are neither seeds nor candidates
    preflight_seconds: float | None = None
    seconds: float | None = None  # those before the search among them
    per_second: float | None = None  # triggers
    l2: float | None = None  # median
    l2_shrunk: float | None = None  # median, after shrinking
    shrink_queries: float | None = None  # mean per trigger
    full_share: float | None = None  # of the batches
    model_share: float | None = None  # of the time
    tied: int | None = None  # seeds whose walk ended by a tie (`sequential`), ties passed on the way (the others)
    unconfirmed: int | None = None


@dataclass(frozen=True)
class Found:
    """How each seed's search ended, side by side; seeds on which the pair deviates by itself are left out."""

    queries: Tensor  # (n,) int64
    deviated: Tensor  # (n,) bool
    distances: Tensor  # (n,) float, of those that deviated


def measure(subject: Subject, strategy: str, effort: Effort) -> Row:
    """The row of a strategy, or of `SEQUENTIAL`; a strategy that refuses the pair, or is none, says why."""
    kind = subject.kind
    start: dict[str, Any] = {"pair": kind.name, "network": kind.network, "family": kind.family, "strategy": strategy}
    try:
        figures = (_sequential if strategy in (SEQUENTIAL, UNTIED) else _batched)(subject, strategy, effort)
    except InputError as error:
        return Row(**start, refused=str(error))
    return Row(**start, seeds=len(subject.seeds), **figures)


def query_figures(found: Found, seconds: float, max_queries: int) -> dict[str, Any]:
    """Success rate, queries per trigger (restricted mean, median, p95), triggers per second and median distance."""
    spent = torch.where(found.deviated, found.queries, max_queries).double().numpy()
    triggers = int(found.deviated.sum())
    success = triggers / len(spent) if len(spent) else 0.0
    return {
        "success": success,
        "mean": float(spent.mean()) if len(spent) else None,
        "median": float(np.quantile(spent, 0.5)) if success >= 0.5 else None,
        "p95": float(np.quantile(spent, 0.95)) if success >= 0.95 else None,
        "seconds": seconds,
        "per_second": triggers / seconds,
        "l2": float(found.distances.median()) if triggers else None,
    }


def _sequential(subject: Subject, strategy: str, effort: Effort) -> dict[str, Any]:
    def run(count: int) -> list[sequential.Walk]:
        seeds = subject.seeds.take(slice(count))
        return list(sequential.search(subject.ask, seeds, effort.run_seed, effort.max_queries, strategy == UNTIED))

    run(2)  # warm-up
    walks, seconds = timed(lambda: run(len(subject.seeds)), effort.cpu_time)
    walks = [walk for walk in walks if walk.queries]
    deviated = torch.tensor([walk.trigger is not None for walk in walks])
    distances = torch.tensor([walk.distance for walk in walks if walk.trigger is not None])
    found = Found(torch.tensor([walk.queries for walk in walks]), deviated, distances)
    tied = sum(walk.tied for walk in walks)
    return query_figures(found, seconds, effort.max_queries) | {"preflight": 0, "tied": tied, "full_share": 1.0}


def _batched(subject: Subject, strategy: str, effort: Effort) -> dict[str, Any]:
    warm = subject.seeds.take(slice(effort.batch(subject)))
    list(prepare(subject, strategy, replace(effort, max_queries=3)).run([warm]))  # warm-up
    shares, tally, asked = [pass_seconds(subject, effort)], Tally(), subject.pair.asked[0]
    search, before = timed(lambda: prepare(subject, strategy, effort), effort.cpu_time)
    ended, seconds = timed(lambda: list(search.run([subject.seeds], tally)), effort.cpu_time)
    seconds += before
    shown = subject.pair.asked[0] - asked
    shares.append(pass_seconds(subject, effort))
    going = [one for one in ended if one.ending is not Ending.already]
    chains = [one.chains for one in going]
    deviated = torch.cat([torch.full((len(one.chains),), one.ending is Ending.deviated) for one in going])
    found = [one.chains for one in going if one.ending is Ending.deviated]
    triggers, origins, seeds = (
        torch.cat([getattr(one, name) for one in found] or [getattr(chains[0], name)[:0]])
        for name in ("images", "origin", "seed")
    )
    queries = torch.cat([one.queries for one in chains])
    figures = query_figures(Found(queries, deviated, _apart(triggers, origins)), seconds, effort.max_queries)
    if strategy in effort.shrunk:
        some = torch.isin(seeds, subject.seeds.ids[: effort.shrink_seeds])
        figures |= _shrunk(subject, origins[some], triggers[some], effort)
    return figures | {
        "preflight_seconds": before,
        "preflight": shown - tally.queries - len(subject.seeds),
        "full_share": tally.full / tally.batches,
        "model_share": sum(shares) / 2 * shown / effort.batch(subject) / seconds,
        "tied": sum(int(one.ties.sum()) for one in chains),
        "unconfirmed": sum(int(one.unconfirmed.sum()) for one in chains),
    }


def _shrunk(subject: Subject, origins: Tensor, triggers: Tensor, effort: Effort) -> dict[str, Any]:
    """Median distance of the triggers made minimal, and what that costs each on average."""
    shrunk = shrink(
        subject.pair,
        subject.confirm,
        origins,
        triggers,
        max_queries=effort.shrink_queries,
        batch_size=effort.batch(subject),
        seed=effort.run_seed,
    )
    if not len(triggers):
        return {}
    l2 = float(_apart(shrunk.images, origins).median())
    return {"l2_shrunk": l2, "shrink_queries": float(shrunk.queries.double().mean())}


def _apart(images: Tensor, others: Tensor) -> Tensor:
    """Euclidean distances of uint8 images (n, c, h, w), on [0, 1], (n,)."""
    return ((images.double() - others) / 255).flatten(1).norm(dim=1)


def prepare(subject: Subject, strategy: str, effort: Effort) -> Search:
    """The search by that strategy, with references asked or gradients at hand; raises `InputError` where it refuses."""
    wants, references, gradients = find_strategy(strategy), None, None
    if wants.references:
        references = References.ask(subject.pair, subject.others[: effort.references], effort.batch(subject))
    if wants.gradients:
        gradients = differentiable(twin(subject.files[0]), twin(subject.files[1]))
    kernel = make_kernel(strategy, references=references, gradients=gradients)
    return Search(kernel, subject.pair, subject.confirm, effort.run_seed, effort.max_queries, effort.batch(subject))


def pass_seconds(subject: Subject, effort: Effort) -> float:
    """Seconds that both models take for one batch of floating-point images, nothing else; the median of `PASSES`."""
    images, size = subject.seeds.images, effort.batch(subject)
    pixels = to_unit(images.repeat(-(-size // len(images)), 1, 1, 1)[:size])
    times = []
    with torch.inference_mode():
        for _ in range(PASSES):
            _, seconds = timed(
                lambda: (subject.pair.original(pixels), subject.pair.compressed(pixels)), effort.cpu_time
            )
            times.append(seconds)
    return sorted(times)[PASSES // 2]


def timed(work: Callable[[], T], cpu_time: bool = False) -> tuple[T, float]:
    """What the work returns, and the seconds it took: on the wall, or of this process's processor."""
    clock = time.process_time if cpu_time else time.perf_counter
    start = clock()
    result = work()
    return result, clock() - start
