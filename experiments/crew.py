"""The workers of a run, joined by Lightning Fabric: one leads, the others do their share of every search.

The leader alone runs the stages. When it comes to a search it tells the others what to look for, works on its own
share, and hears how theirs went; all that they find lies in the run folder.
"""

import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.launching import environment_as_before, start_others, stop_others
from experiments.workers import LostWorker, Place

if TYPE_CHECKING:
    import subprocess

    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import ClusterEnvironment

WAIT = timedelta(days=20)
"""For one another's messages: longer than any repair. Who dies is noticed at once, by the closed connection."""

JOIN_SECONDS = 600.0
"""Until all workers are there; they only have to import."""


class Outcome(NamedTuple):
    """How a worker's share of a search ended."""

    late: bool = False  # time was over
    refusal: str | None = None  # what is wrong with the input, a sentence


class Crew:
    """One worker's line to the others; without `fabric` it works alone."""

    def __init__(
        self, place: Place, fabric: "Fabric | None" = None, others: Sequence["subprocess.Popen[bytes]"] = ()
    ) -> None:
        self.place, self._fabric, self._others = place, fabric, others

    def tell(self, task: Any = None) -> Any:
        """The leader's task, to every worker; None sends them home. Raises `LostWorker`."""
        return self._from(0, task)

    def hear(self, mine: Outcome) -> list[Outcome]:
        """How every worker's share ended, by rank; waits until the last one has. Raises `LostWorker`."""
        return [self._from(rank, mine) for rank in range(self.place.world)]

    def _from(self, rank: int, value: Any) -> Any:
        fabric = self._fabric
        return value if fabric is None else patiently(lambda: fabric.broadcast(value, src=rank), self._others)


ALONE = Crew(Place())


@contextmanager
def joined(place: Place, arguments: Sequence[str]) -> Iterator[Crew]:
    """The crew of this worker, which starts the others on its node where nobody else does, by `dflare <arguments>`.

    Raises `LostWorker` when they do not come or one dies. Workers started here end with this one, whatever ends it.
    """
    if place.world == 1:
        yield ALONE
        return
    import torch

    threads, others = torch.get_num_threads(), []
    with environment_as_before(), _quiet():
        os.environ["OMP_NUM_THREADS"] = str(threads)  # otherwise Fabric chooses
        cluster = _cluster(place)
        try:
            if place.starts_others:
                others = start_others(place, arguments, cluster.main_address, cluster.main_port)
            fabric = _fabric(place, cluster)
            patiently(fabric.launch, others, JOIN_SECONDS)
            crew = Crew(place, fabric, others)
            yield crew
            if place.rank == 0:
                with suppress(LostWorker):  # all is done
                    crew.tell(None)
        finally:
            stop_others(others)
            if place.owns_all and place.rank == 0 and torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()  # the others are gone, so this waits for nobody


def patiently(
    work: Callable[[], Any], others: Sequence["subprocess.Popen[bytes]"] = (), seconds: float = float("inf")
) -> Any:
    """What `work` returns, which waits for other workers outside of Python: here Ctrl-C is heard meanwhile.

    Raises `LostWorker` when one of `others` ends, a connection breaks or the time is over.
    """
    answer: Future[Any] = Future()

    def run() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:  # to be raised where the answer is waited for
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    end = time.monotonic() + seconds
    while not wait([answer], timeout=0.1).done:
        if any(other.poll() is not None for other in others) and not answer.done():
            raise LostWorker("a worker has ended before its work was done; run the same command to continue")
        if time.monotonic() > end:
            raise LostWorker(f"expected all workers to be there after {seconds:g} seconds; run the command again")
    try:
        return answer.result()
    except (RuntimeError, TimeoutError) as error:  # of torch.distributed, whatever its backend
        raise LostWorker("the connection to a worker is lost; run the same command to continue") from error


def _fabric(place: Place, cluster: "ClusterEnvironment") -> "Fabric":
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    strategy = DDPStrategy(cluster_environment=cluster, process_group_backend="gloo", timeout=WAIT)
    return Fabric(accelerator="cpu", devices=place.here, num_nodes=place.world // place.here, strategy=strategy)


def _cluster(place: Place) -> "ClusterEnvironment":
    from lightning_fabric.plugins.environments import (
        LightningEnvironment,
        SLURMEnvironment,
        TorchElasticEnvironment,
    )

    class Started(LightningEnvironment):
        """All workers are started by `start_others`, none by Fabric, which would start this program's arguments."""

        creates_processes_externally = True

    if not place.started:
        return Started()
    return TorchElasticEnvironment() if TorchElasticEnvironment.detect() else SLURMEnvironment()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Fabric's banner off the terminal, and the advice to a trainer that takes the others for its own."""
    import lightning_fabric  # noqa: F401  (importing it sets the level)

    loggers = [logging.getLogger(name) for name in ("lightning_fabric", "pytorch_lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*sync_dist=True.*when logging on epoch level.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
