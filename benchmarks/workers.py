"""Two workers against one: processes with one thread each that search disjoint halves of the same seeds."""

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from queue import Empty

import torch

from dflare.seeds import Seeds
from measure import Effort, prepare, timed
from pairs import PAIRS, open_subject

LONGEST_WAIT = 600
"""Seconds that a worker waits at the start for the others."""


@dataclass(frozen=True)
class Comparison:
    """Seconds that the searching took, start-up not counted; the shortest of the repetitions."""

    pair: str
    strategy: str
    seeds: int
    one: float
    two: float

    @property
    def ratio(self) -> float:
        """How many times faster two workers are than one."""
        return self.one / self.two


def compare(pair: str, strategy: str, seeds: Seeds, effort: Effort, ending: str, repetitions: int = 2) -> Comparison:
    """Measure one and two workers in turn; worker k takes every second seed."""
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repetitions):
        for count in times:
            times[count].append(race(count, pair, strategy, seeds, effort, ending))
    return Comparison(pair, strategy, len(seeds), min(times[1]), min(times[2]))


def race(count: int, pair: str, strategy: str, seeds: Seeds, effort: Effort, ending: str) -> float:
    """Seconds from the common start of `count` workers to the end of the slowest.

    Raises `RuntimeError` when a worker ends without a result.
    """
    context = multiprocessing.get_context("spawn")  # sessions of ONNX Runtime and LiteRT do not cross a fork
    start, results = context.Barrier(count), context.Queue()
    shards = [(seeds.images[rank::count].numpy(), seeds.ids[rank::count].numpy()) for rank in range(count)]
    workers = [
        context.Process(target=_work, args=(pair, strategy, *shard, effort, ending, start, results)) for shard in shards
    ]
    for worker in workers:
        worker.start()
    try:
        answers = [_answer(results, workers) for _ in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    reasons = [one for one in answers if isinstance(one, str)]
    if reasons:
        reason = min(reasons, key=lambda one: one.startswith("BrokenBarrierError"))  # the others follow the first
        raise RuntimeError(f"one of {count} workers on {pair} failed: {reason}")
    return max(one for one in answers if not isinstance(one, str))


def _answer(results: Queue, workers: Sequence[BaseProcess]) -> float | str:
    """The next worker's seconds, or why it failed; also where one was killed and cannot say."""
    while True:
        try:
            return results.get(timeout=1)
        except Empty:
            codes = [worker.exitcode for worker in workers if worker.exitcode]
            if codes:
                return f"it ended with code {codes[0]}"


def _work(
    pair: str, strategy: str, images: object, ids: object, effort: Effort, ending: str, start: Barrier, results: Queue
) -> None:
    """Open the models, search a little, wait for the others, search the shard and report the seconds."""
    try:
        torch.set_num_threads(1)
        subject = replace(
            open_subject(PAIRS[pair], 1, ending), seeds=Seeds(torch.as_tensor(images), torch.as_tensor(ids))
        )
        warm = subject.seeds.take(slice(effort.batch(subject)))
        list(prepare(subject, strategy, replace(effort, max_queries=3)).run([warm]))
        search = prepare(subject, strategy, effort)
        start.wait(LONGEST_WAIT)
        _, seconds = timed(lambda: list(search.run([subject.seeds])))
        results.put(seconds)
    except Exception as error:  # told in the parent's words, because a traceback here names no pair
        start.abort()
        results.put(f"{type(error).__name__}: {error}")
