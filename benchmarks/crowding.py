"""Processes that ask the same model at the same time: whether two of them fight over two cores."""

import multiprocessing
import os
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import torch

from backends import Backend

LONGEST_WAIT = 300
"""Seconds that a worker may take to open a model or to answer."""

SETUPS = {"one": (1, 1), "one process of two threads": (1, 2), "two": (2, 1), "two of two threads": (2, 2)}
"""Name -> processes and threads of each."""


@dataclass(frozen=True)
class Asked:
    """What a setup came to: images a second of the clock, and seconds of the processors an image."""

    rate: float
    cost: float


@dataclass(frozen=True)
class Crowd:
    """A backend under every setup of `SETUPS`, medians of the repetitions."""

    backend: str
    batch: int
    asked: dict[str, Asked]

    def rate(self, setup: str, base: str) -> float:
        """How many times more images a second of the clock a setup answers than another."""
        return self.asked[setup].rate / self.asked[base].rate

    def cost(self, setup: str, base: str = "one") -> float:
        """How many times more time of the processors an image takes under a setup than under another."""
        return self.asked[setup].cost / self.asked[base].cost


class Workers:
    """Processes that wait for a model to ask; two with one thread and two with two. To be used in `with`."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")  # sessions of ONNX Runtime and LiteRT do not cross a fork
        self._ends: dict[int, list[Connection]] = {1: [], 2: []}
        self._processes = []
        for threads in (1, 1, 2, 2):
            mine, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, threads, folder), daemon=True)
            process.start()
            self._ends[threads].append(mine)
            self._processes.append(process)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def compare(self, backend: Backend, batch: int, seconds: float, repeats: int) -> Crowd:
        """Ask the backend under every setup in turn; raises `RuntimeError` when a worker fails."""
        for connection in (*self._ends[1], *self._ends[2]):
            connection.send((backend, batch))
        for connection in (*self._ends[1], *self._ends[2]):
            _answer(connection, backend)
        found: dict[str, list[Asked]] = {name: [] for name in SETUPS}
        for _ in range(repeats):
            for name, (processes, threads) in SETUPS.items():
                found[name].append(_ask(self._ends[threads][:processes], seconds, backend))
        medians = {
            name: Asked(median(one.rate for one in some), median(one.cost for one in some))
            for name, some in found.items()
        }
        return Crowd(backend.name, batch, medians)


def _ask(connections: list[Connection], seconds: float, backend: Backend) -> Asked:
    for connection in connections:
        connection.send(seconds)
    answers = [_answer(connection, backend) for connection in connections]
    images = sum(one for one, _, _ in answers)
    return Asked(sum(one / wall for one, wall, _ in answers), sum(used for _, _, used in answers) / images)


def _answer(connection: Connection, backend: Backend) -> tuple[int, float, float]:
    try:
        if not connection.poll(LONGEST_WAIT):
            raise RuntimeError(f"a worker on {backend.name} did not answer within {LONGEST_WAIT} s")
        answer = connection.recv()
    except EOFError as error:
        raise RuntimeError(f"a worker on {backend.name} ended without an answer") from error
    if isinstance(answer, str):
        raise RuntimeError(f"a worker on {backend.name} failed: {answer}")
    return answer


def _work(connection: Connection, threads: int, folder: Path) -> None:
    """Open what is named, or ask it for some seconds and tell images, seconds of the clock and of the processor."""
    torch.set_num_threads(threads)
    own = folder / f"worker-{os.getpid()}"
    own.mkdir()
    with torch.inference_mode():
        while True:
            order = connection.recv()
            try:
                if isinstance(order, tuple):
                    backend, batch = order
                    classifier = backend.open(threads, own)
                    images = torch.rand(batch, *backend.shape)
                    classifier(images)
                    connection.send((0, 0.0, 0.0))
                    continue
                count, wall, cpu = 0, time.perf_counter(), time.process_time()
                while time.perf_counter() - wall < order:
                    classifier(images)
                    count += len(images)
                connection.send((count, time.perf_counter() - wall, time.process_time() - cpu))
            except Exception as error:  # told in the parent's words, because a traceback here names no backend
                connection.send(f"{type(error).__name__}: {error}")
