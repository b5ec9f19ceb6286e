"""The rows of the mixed precision benchmark: how each file is made, and what is asked of it."""

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dflare.api import find_triggers
from dflare.classifiers import Classifier, Outputs, ask
from dflare.models.opening import open_classifier
from dflare.seeds import Seeds
from dflare.triggers import TriggerSet
from experiments.data import assign_sides, load_data
from pairs import bench_folder
from repair.data import Examples, Mixture, RepairData
from repair.fit import Schedule, fit_steps
from repair.onnx_models.activations import grids
from repair.onnx_models.bits import widen, with_float_output
from repair.onnx_models.ranges import observe
from repair.onnx_models.weight_bits import small_weights, widen_weights
from repair.onnx_models.weights import read_whole
from repair.opening import open_trainable
from repair.precision.choice import by_chance, by_size, greedy, in_order
from repair.precision.latency import latencies
from repair.precision.mixed_precision import Asked, Bench, Choice, Step, frontier
from repair.proof.intervals import Figure, share
from repair.proof.probe import ProbeSet
from repair.recipes import find_recipe

MODELS = {"mnist_lenet-5": "mnist", "mnist_simplecnn": "mnist", "cifar-10_resnet20": "cifar10"}
"""Folder below $DFLARE_BENCH/models -> its images."""

STRATEGIES = ("boundary", "dflare")
HANDED_IN, FLOAT, ALL, ALL_FLOAT = "as handed in", "float output", "all 16 bit", "all 16 bit, float output"
MORE_BYTES = 0.095
"""Share of the file's bytes that weights may add; the rest of a tenth is for what the file says of them."""

CHANCES = 3
"""Orders by chance."""

REPLAYED = 4000
"""Clean training images that are replayed."""

STEPS, RATE, RECIPE = {"mnist_lenet-5": 1200, "mnist_simplecnn": 400, "cifar-10_resnet20": 60}, 3e-4, "logits"
"""How rows are trained: optimiser steps, learning rate, recipe. Few steps for large models: there are six rows."""

SHOWN_STEPS = 6
"""Steps of a long frontier that are shown; all are judged by the search's images."""


class Sizes(NamedTuple):
    """How many images of each kind."""

    probe: int
    seeds: int  # judge seeds of each search
    learn: int  # training seeds: of the triggers that choose tensors and train weights
    repeats: int  # of a latency


@dataclass(frozen=True)
class Setup:
    """A model at hand: its benches, its held-out triggers and its clean test images."""

    name: str
    bench: Bench
    held_out: dict[str, Asked]  # what found them -> triggers
    clean: Seeds
    clean_scores: Tensor  # the original's
    learned: TriggerSet  # of training seeds
    train: Seeds
    original: Classifier
    repeats: int

    @property
    def counts(self) -> str:
        return ", ".join(f"{len(asked.images)} triggers of {name}" for name, asked in self.held_out.items())

    @property
    def accuracy(self) -> float:
        """Of the original."""
        assert self.clean.labels is not None
        return float((self.clean_scores.argmax(-1) == self.clean.labels).float().mean())

    def clean_outputs(self, path: Path) -> Outputs:
        return Outputs(self.clean_scores, ask(open_classifier(path, threads=1), self.clean.images, "compressed"))


@dataclass(frozen=True)
class Row:
    """One file, judged. Shares are of all clean test images."""

    name: str
    step: Step
    repaired: dict[str, Figure]  # what found the triggers -> share on which the pair agrees
    broken: float
    fixed: float
    accuracy: float
    latency_ms: float = 0.0  # all rows' files taking turns

    def __str__(self) -> str:
        repaired = ", ".join(f"{figure.value:.1%}" for figure in self.repaired.values() if figure.value is not None)
        probe = f"{self.step.deviation.value:.3%} ({self.step.argmax.value:.3%} labels)"
        return (
            f"{self.name}: {self.step.bytes:,} bytes, probe {probe}, "
            f"repaired {repaired}, broken {self.broken:.2%}, accuracy {self.accuracy:.2%}"
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def prepare(name: str, sizes: Sizes, folder: Path) -> Setup:
    """Open a pair, search its triggers and make its probe; raises `InputError` for missing files."""
    models = bench_folder() / "models" / name
    start, original = models / "int8.onnx", open_classifier(models / "original.onnx", threads=1)
    train, _, judge = assign_sides(load_data(MODELS[name], str(bench_folder() / "data")), (0.6, 0.2, 0.2))
    floating = folder / "float-output.onnx"
    floating.write_bytes(with_float_output(read_whole(start)).SerializeToString(deterministic=True))
    held_out = {}
    for kind, path in (("", start), ("float output, ", floating)):
        for strategy in STRATEGIES:
            found = _search(original, path, judge.images[: sizes.seeds], strategy)
            held_out[f"{kind}{strategy}"] = Asked.of(original, found.images)
    learned = _search(original, start, train.images[: sizes.learn], "boundary")
    count = sizes.probe // 10 if MODELS[name] == "cifar10" else sizes.probe
    few = len(learned) // 4
    look = torch.cat([next(ProbeSet(train.images, train.ids, sizes.learn // 2).chunks(10**6)), learned.images[:few]])
    probe = torch.cat(list(ProbeSet(judge.images, judge.ids, count).chunks()))
    search, asked = Asked.of(original, look), Asked.of(original, probe)
    bench = Bench(start, search, asked, held_out["boundary"], folder / "widened", repeats=20)
    scores = ask(original, judge.images, "original")
    return Setup(name, bench, held_out, judge, scores, learned, train, original, sizes.repeats)


def rows_of(setup: Setup, choices: bool = True) -> list[Row]:
    """Every row of the table, with the latencies of all files measured together; without `choices` of tensors fewer."""
    before = ~setup.clean_outputs(setup.bench.path).deviates
    rows = []
    for name, step in _steps(setup, choices):
        rows.append(_row(setup, before, name, step))
        print(f"  {rows[-1]}", file=sys.stderr, flush=True)  # the table comes last, and may be long in coming
    times = latencies([row.step.path for row in rows], setup.clean.images[:1], repeats=setup.repeats)
    return [replace(row, latency_ms=time) for row, time in zip(rows, times, strict=True)]


def _steps(setup: Setup, choices: bool) -> Iterator[tuple[str, Step]]:
    """Name and file of every row: fixed ones, choices of tensors, and weights trained afterwards."""
    bench = setup.bench
    floating = replace(bench, float_output=True, _losses={}, _judged={})
    everything = frozenset(name for group in bench.groups() for name in group)
    without = frozenset(name for group in floating.groups() for name in group)
    yield HANDED_IN, bench.judge(bench.path)
    yield FLOAT, floating.step(frozenset())
    yield ALL, bench.step(everything)
    yield ALL_FLOAT, floating.step(without)
    yield "all 16 bit, ranges of 1,000 training images", bench.judge(_recalibrated(setup, everything), everything)
    if choices:
        yield from _chosen(setup)
    starts = {"8 bit": (bench.path, frozenset[str]()), ALL: (bench.write(everything), everything)}
    starts[f"{ALL} and small weights"] = (_small_weights(setup, bench.write(everything)), everything)
    for name, (start, bits) in reversed(starts.items()):
        for what, images in (("trained", setup.learned.images), ("placebo", setup.learned.seed_images)):
            yield f"{name}, {what}", bench.judge(_trained(setup, start, images, f"{name} {what}"), bits)


def _chosen(setup: Setup) -> Iterator[tuple[str, Step]]:
    """The frontier's steps between none and all, by each order of choice."""
    bench, count = setup.bench, len(setup.bench.groups())
    seen = {name: each.numbers for name, each in observe(bench.path, setup.train.images[:1]).items()}
    orders: dict[str, Choice] = {"greedy": greedy}
    orders["by size"] = lambda found, loss, affordable: in_order(by_size(found, seen), affordable)
    orders |= {f"chance {seed}": partial(_by_chance, seed) for seed in range(CHANCES)}
    for name, choose in orders.items():
        steps = frontier(bench, choose=choose)
        yield from ((f"{name}, {i} of {count}", steps[i]) for i in shown(count))


def _by_chance(seed: int, found: Any, loss: Any, affordable: Any) -> Iterator[frozenset[str]]:
    return in_order(by_chance(found, seed), affordable)


def shown(steps: int) -> list[int]:
    """Numbers of the steps between none and all: all of few, else about `SHOWN_STEPS` of them."""
    return sorted({round(steps * part / SHOWN_STEPS) for part in range(1, SHOWN_STEPS)} - {0, steps})


def _search(original: Classifier, path: Path, images: Tensor, strategy: str) -> TriggerSet:
    return find_triggers(original, open_classifier(path, threads=1), images, strategy=strategy)


def _recalibrated(setup: Setup, everything: frozenset[str]) -> Path:
    """All activations of 16 bits, on the ranges that 1,000 training images and the probe-like ones show."""
    images = torch.cat([setup.train.images[:1000], setup.bench.search.images])
    ranges = {name: each.range for name, each in observe(setup.bench.path, images).items()}
    target = setup.bench.folder / "recalibrated.onnx"
    target.write_bytes(widen(read_whole(setup.bench.path), everything, ranges).SerializeToString(deterministic=True))
    return target


def _small_weights(setup: Setup, start: Path) -> Path:
    """The smallest weights at 16 bits as well, as many as a file that is a tenth larger holds."""
    model, target = read_whole(start), setup.bench.folder / "small-weights.onnx"
    budget = int(MORE_BYTES * setup.bench.path.stat().st_size)
    wide = widen_weights(model, small_weights(model, budget))
    target.write_bytes(wide.SerializeToString(deterministic=True))
    return target


def _trained(setup: Setup, start: Path, images: Tensor, name: str) -> Path:
    """Weights trained on the training triggers, or on their clean seeds, with replayed clean images."""
    examples, replayed = (
        Examples(each, ask(setup.original, each, "original").softmax(-1))
        for each in (images, setup.train.images[:REPLAYED])
    )
    trainable = open_trainable(start)
    data = RepairData(Mixture(examples, replayed, 128, 0.5, 0), 100, examples, replayed)
    steps = STEPS[setup.name]
    fitted = fit_steps(trainable, data, find_recipe(RECIPE), Schedule(steps, RATE, 100, 3), steps)
    target = setup.bench.folder / f"{name}.onnx"
    trainable.write(fitted.weights, target)
    trainable.check(target)
    assert grids(read_whole(target)) == grids(read_whole(start))
    return target


def _row(setup: Setup, before: Tensor, name: str, step: Step) -> Row:
    outputs, model = setup.clean_outputs(step.path), open_classifier(step.path, threads=1)
    agrees = ~outputs.deviates
    assert setup.clean.labels is not None
    return Row(
        name,
        step,
        {found: share((~asked.outputs(model).deviates).numpy()) for found, asked in setup.held_out.items()},
        float((before & ~agrees).float().mean()),
        float((~before & agrees).float().mean()),
        float((outputs.labels[1] == setup.clean.labels).float().mean()),
    )
