"""Start other workers on this machine, and see to it that none of them outlives the one that started it."""

import _thread
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from experiments.workers import LED, Place

GRACE = 30.0
"""Seconds that a worker has to write what has ended; then it is killed."""


def start_others(place: Place, arguments: Sequence[str], address: str, port: int) -> list["subprocess.Popen[bytes]"]:
    """The other workers of this node, each running `dflare <arguments>`; `address` and `port` are the leader's.

    They hold the other end of a pipe, which closes when this process ends. In a session of their own they hear no
    Ctrl-C: this process does, and leaves.
    """
    shared = {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "NODE_RANK": str(place.rank // place.here),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),  # the code that runs here
        LED: "1",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "experiments.main", *arguments],
            env={**os.environ, **shared, "LOCAL_RANK": str(local)},
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        for local in range(1, place.here)
    ]


def stop_others(others: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Let go of the workers and wait until they have left."""
    for other in others:
        assert other.stdin is not None
        other.stdin.close()
    end = time.monotonic() + GRACE
    try:
        for other in others:
            other.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass
    finally:
        for other in others:
            other.kill()
            other.wait()


def end_with_starter() -> None:
    """In a worker that another started: be interrupted when that one ends, as by Ctrl-C."""
    if os.environ.pop(LED, None) is None:
        return

    def watch() -> None:
        while os.read(0, 1):
            pass
        _thread.interrupt_main()
        time.sleep(GRACE)
        os._exit(130)  # it waits for someone who is gone, outside of Python

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def environment_as_before() -> Iterator[None]:
    """Put the environment variables back in the end: Fabric sets some."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
