"""How many images a second backends answer, asked in batches of several sizes, and what a fixed batch costs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from backends import FOLDERS, Backend, fix_batch, shape_of
from dflare.classifiers import Classifier
from dflare.models.opening import open_classifier
from pairs import bench_folder

BATCHES = (1, 16, 64, 256)

FIXED = (1, 8)
"""Batches that files are fixed to."""

ASKED = (1, 8, 64)
"""Images at once that such files are asked about."""


@dataclass(frozen=True)
class Effort:
    """How long to measure: seconds of the processor a measurement at least, and how many of them."""

    seconds: float = 0.2
    repeats: int = 3
    crowd_seconds: float = 1.0  # of the clock, for processes that ask at the same time
    crowded: tuple[str, ...] = (".onnx", ".tflite default", ".pt2")  # runtimes that such processes ask


@dataclass(frozen=True)
class Cell:
    """A backend at one batch: images a second of the processor and of the clock, medians."""

    backend: Backend
    batch: int
    rate: float
    wall_rate: float


@dataclass(frozen=True)
class Fixed:
    """A file of a fixed batch beside the same net of any batch.

    `unequal` of `scores` are not the same bits in both, by `furthest` at most. `rates`: images asked about at once ->
    images a second of the processor, of the file and of the one of any batch.
    """

    file: str
    batch: int
    scores: int
    unequal: int
    furthest: float
    rates: dict[int, tuple[float, float]]


def throughput(wanted: Sequence[Backend], effort: Effort, folder: Path) -> list[Cell]:
    """Every backend at every batch of `BATCHES` with one thread; what has to be made is written to the folder.

    The backends take turns, so that a machine that is busy for a while slows all alike.
    """
    opened = {backend: backend.open(1, folder) for backend in wanted}
    times: dict[tuple[Backend, int], list[tuple[float, float]]] = {}
    for repeat in range(effort.repeats + 1):
        for backend, classifier in opened.items():
            for batch in BATCHES:
                measured = timed(classifier, noise(backend.shape, batch), effort.seconds if repeat else 0)
                if repeat:  # the first is the warm-up
                    times.setdefault((backend, batch), []).append(measured)
    return [Cell(*key, *(median(one) for one in zip(*some, strict=True))) for key, some in times.items()]


@torch.inference_mode()
def timed(classifier: Classifier, images: Tensor, seconds: float) -> tuple[float, float]:
    """Images answered a second of the processor and of the clock, asked again until it took so many of the former."""
    wall, processor, count, used = time.perf_counter(), time.process_time(), 0, 0.0
    while used < seconds or not count:
        classifier(images)
        count += len(images)
        used = time.process_time() - processor
    return count / max(used, 1e-9), count / (time.perf_counter() - wall)


def noise(shape: tuple[int, ...], count: int) -> Tensor:
    """Images (count, c, h, w) in [0, 1], always the same."""
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))


def fixed_batches(network: str, effort: Effort, folder: Path) -> list[Fixed]:
    """The `.onnx` files of a network, float and int8, fixed to each batch of `FIXED`, beside those of any batch."""
    found = []
    for stem in ("original", "int8"):
        name = f"{FOLDERS[network]}/{stem}.onnx"
        source = bench_folder() / "models" / name
        free = open_classifier(source, threads=1)
        for batch in FIXED:
            path = folder / f"{FOLDERS[network]}-{stem}-{batch}.onnx"
            fix_batch(source, batch, path)
            found.append(beside(open_classifier(path, threads=1), free, name, batch, shape_of(network), effort))
    return found


def beside(fixed: Classifier, free: Classifier, file: str, batch: int, shape: tuple[int, ...], effort: Effort) -> Fixed:
    """A file of a fixed batch beside the one of any batch; how many images are asked about is no multiple of it."""
    images = noise(shape, 8 * batch + batch // 2 + 1)
    with torch.inference_mode():
        ours, theirs = fixed(images), free(images)
    rates = {}
    for asked in ASKED:
        images = noise(shape, asked)
        both = [[timed(one, images, effort.seconds)[0] for one in (fixed, free)] for _ in range(effort.repeats)]
        rates[asked] = median(one for one, _ in both), median(one for _, one in both)
    unequal = int((ours != theirs).sum())
    return Fixed(file, batch, ours.numel(), unequal, float((ours - theirs).abs().max()), rates)
