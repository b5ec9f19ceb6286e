"""Lightning as this project uses it: quiet, resumable, and interrupted like any other Python code."""

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from torch import distributed

_EXPECTED_WARNINGS = (
    ".*does not have many workers.*",  # batches are slices of tensors in memory, workers would only copy them
    ".*Checkpoint directory .* exists and is not empty.*",  # a continued repair
    ".*GPU available but not used.*",  # the configuration decides
    ".*LeafSpec.*is deprecated.*",  # Lightning 2.6 still uses the name that torch 2.15 has given up
    ".*Starting from v1.9.0, `tensorboardX` has been removed.*",  # TensorBoard is logged to where it is wanted
)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's banners and the warnings that say nothing here off the terminal."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.setLevel(level)


def run(trainer: pl.Trainer, *arguments: Any, **options: Any) -> None:
    """`trainer.fit(…)`, but Ctrl-C raises `KeyboardInterrupt`; Lightning would exit with code 1 and ignore SIGINT.

    A process group that a strategy opens for the training is closed after it: what follows runs in one process.
    """
    grouped = _is_grouped()
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if main else None
    try:
        with quiet():
            trainer.fit(*arguments, **options)
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        if not grouped and _is_grouped():
            distributed.destroy_process_group()
    if trainer.interrupted:
        raise KeyboardInterrupt


def _is_grouped() -> bool:
    return distributed.is_available() and distributed.is_initialized()
