"""Ask the triggers of a folder again in a process of its own: `python -m experiments.fresh`, request on stdin.

The request is one JSON object, the fields of `Request`. Answers are lines of JSON on stdout: for each runtime the
counts of each part of the triggers, then {"runtime", "seconds"}; or {"error"}, a sentence, and exit code 2.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dflare.errors import InputError
from experiments.config import Config
from experiments.process import prepare

if TYPE_CHECKING:
    from torch import Tensor

    from dflare.classifiers import Classifier

PART = 256
"""Triggers that are asked and counted together, between two signs of progress."""


@dataclass(frozen=True)
class Request:
    """Which triggers to ask of which models, and how."""

    folder: str  # with the shards of a search
    models: list[dict[str, Any]]  # original and compressed, as `Source.to_json`; none for a pair in memory
    name: str  # of the pair
    runtimes: list[str]
    repeats: int  # how often each trigger is asked
    threads: int  # of torch


def main() -> int:
    """Answer the request on stdin; the exit code."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what models print must not stand among the answers
    with answers:
        try:
            for answer in respond(Request(**json.load(sys.stdin))):
                print(json.dumps(answer), file=answers, flush=True)
        except InputError as error:
            print(json.dumps({"error": str(error)}), file=answers)
            return 2
    return 0


def respond(request: Request) -> Iterator[dict[str, Any]]:
    """The answers to a request: counts of part after part, and how many seconds each runtime took."""
    prepare(Config(threads=request.threads))
    from dflare.classifiers import ModelPair
    from dflare.verification import ask_again, verified

    for runtime in request.runtimes:
        start = time.monotonic()
        pair = ModelPair(*_models(request, runtime))
        for images in _images(Path(request.folder)).split(PART):
            yield {"runtime": runtime, **verified(ask_again(pair, images, request.repeats)).counts()}
        yield {"runtime": runtime, "seconds": round(time.monotonic() - start, 2)}


def _models(request: Request, runtime: str) -> "tuple[Classifier, Classifier]":
    """The original and the compressed model, freshly opened."""
    if not request.models:
        from experiments.imagenet import open_imagenet_pair

        return open_imagenet_pair(request.name, download=False)
    from experiments.opening import Source

    original, compressed = (Source.from_json(model).open(runtime) for model in request.models)
    return original, compressed


def _images(folder: Path) -> "Tensor":
    """The triggers as they were saved, uint8 (n, c, h, w), n >= 1."""
    from dflare.shards import read_triggers

    triggers = read_triggers(folder)
    if triggers is None:
        raise InputError(f"expected triggers in {folder}, found none")
    return triggers.images


if __name__ == "__main__":
    sys.exit(main())
