"""What an output repair and its placebo come to on a pair that stays closed: search, learn, judge."""

import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dflare.api import find_triggers
from dflare.classifiers import Classifier, Outputs, ask, to_unit
from dflare.seeds import Seeds, pixel_hash
from dflare.triggers import TriggerSet
from experiments.data import load_data
from pairs import PAIRS, bench_folder, open_pair
from repair.outputs.fitting import Fit, fit_head
from repair.outputs.head import Head
from repair.outputs.head_file import head_bytes
from repair.outputs.onnx_head import head_model
from repair.outputs.recipes import OutputRecipe
from repair.outputs.repaired import Corrected
from repair.outputs.replay import replayed
from repair.proof.intervals import Figure
from repair.proof.metrics import paired_rates, share
from repair.proof.probe import ProbeSet

NAMES = ("diffchaser-lenet1", "diffchaser-lenet5", "mnist_lenet-5-distilled")
ENDING = ".pt2"
STRATEGY, OTHER = "boundary", "dflare-released"
KINDS = {"learnt": ("train", STRATEGY), "held": ("test", STRATEGY), "other": ("test", OTHER), "clean": (), "probe": ()}
"""Images to judge by; triggers with the side that they come from and the search that finds them."""

TIMED = 300
"""Images that a model is timed on with and without its head, one at a time, in turns."""


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    learn: int = 600  # training images to search from
    judge: int = 400  # test images to search from
    probe: int = 10_000  # mutated test images
    clean: int = 10_000  # training images replayed, at most, and as many mutated ones
    seed: int = 0


QUICK = Scale(learn=100, judge=100, probe=1000, clean=1000)


@dataclass(frozen=True)
class Row:
    """What a head and its placebo came to; rates in [0, 1] with 95 % intervals."""

    pair: str
    recipe: str
    parts: dict[str, Any]
    scale: dict[str, Any]
    triggers: int  # learnt
    efficacy: Figure
    generalization: Figure  # of triggers from test images, found as those learnt
    placebo: Figure
    gain: Figure  # generalization - placebo, paired; triggers of one seed image count as alike
    other: Figure  # generalization for triggers that another search strategy found
    other_placebo: Figure
    broken: Figure  # of all clean test images
    fixed: Figure
    net: Figure  # fixed - broken
    broken_placebo: Figure
    probe_before: Figure  # share of deviating mutated test images
    probe_after: Figure
    probe_placebo: Figure
    kind: str
    bytes_model: int
    bytes_head: int  # of head.npz
    bytes_onnx: int  # of head.onnx
    microseconds_model: float  # for one image, median
    microseconds: float  # the same with the head behind it
    seconds: float  # of processor time to learn the head


@dataclass(frozen=True)
class Asked:
    """Images of one kind with what both models say of them."""

    images: Tensor
    original: Tensor
    compressed: Tensor
    seeds: np.ndarray  # (n,) the seed image that each comes from

    def agrees(self, head: Head) -> np.ndarray:
        """Whether the original agrees with the model behind which the head stands, (n,) bool."""
        corrected = torch.from_numpy(head(self.compressed.numpy()))
        return ~Outputs(self.original, corrected).deviates.numpy()

    @property
    def agreed(self) -> np.ndarray:
        """Whether the models agree as they are, (n,) bool."""
        return ~Outputs(self.original, self.compressed).deviates.numpy()


def measure(pair: str, name: str, recipe: OutputRecipe, scale: Scale) -> Row:
    """Learn the head and its placebo, and judge both."""
    found = triggers(pair, "train", STRATEGY, scale)
    began = time.process_time()
    fitted = learnt(pair, recipe, scale, found.images)
    seconds = time.process_time() - began
    head, placebo = fitted.head, learnt(pair, recipe, scale, found.seed_images, fitted.steps).head
    train, held, other, clean, probe = (asked(pair, kind, scale) for kind in KINDS)
    change, control = (paired_rates(clean.agreed, clean.agrees(one)) for one in (head, placebo))
    agreed = [held.agrees(one) for one in (placebo, head)]
    alone, behind = microseconds(pair, head, clean.images)
    return Row(
        pair=pair,
        recipe=name,
        parts=recipe.parts(),
        scale=asdict(scale),
        triggers=len(found),
        efficacy=share(train.agrees(head)),
        generalization=share(agreed[1], held.seeds),
        placebo=share(agreed[0], held.seeds),
        gain=paired_rates(*agreed, held.seeds).net,
        other=share(other.agrees(head), other.seeds),
        other_placebo=share(other.agrees(placebo), other.seeds),
        broken=change.broken,
        fixed=change.fixed,
        net=change.net,
        broken_placebo=control.broken,
        probe_before=share(~probe.agreed, probe.seeds),
        probe_after=share(~probe.agrees(head), probe.seeds),
        probe_placebo=share(~probe.agrees(placebo), probe.seeds),
        kind=head.kind,
        bytes_model=compressed_file(pair).stat().st_size,
        bytes_head=len(head_bytes(head)),
        bytes_onnx=len(head_model(head, clean.compressed.shape[1]).SerializeToString()),
        microseconds_model=alone,
        microseconds=behind,
        seconds=seconds,
    )


def learnt(pair: str, recipe: OutputRecipe, scale: Scale, images: Tensor, steps: int | None = None) -> Fit:
    """The head that a recipe makes of some images and of clean and mutated training images."""
    few = replace(recipe, clean=min(recipe.clean, scale.clean), mutated=min(recipe.mutated, scale.clean))
    said = [tuple(ask(model, images) for model in opened(pair)), *([replay(pair, few)] if few.clean else [])]
    original, compressed = (torch.cat(parts) for parts in zip(*said, strict=True))
    targets = original.softmax(-1).numpy()
    return fit_head(recipe.head, compressed.numpy(), targets, seed=scale.seed, keep=recipe.keep, steps=steps)


@cache
def replay(pair: str, recipe: OutputRecipe) -> tuple[Tensor, Tensor]:
    """What both models say of the replayed training images."""
    images = torch.cat(list(replayed(recipe, seeds_of(mnist()[0][: recipe.clean]))))
    return tuple(ask(model, images) for model in opened(pair))  # type: ignore[return-value]


@cache
def asked(pair: str, kind: str, scale: Scale) -> Asked:
    """The images of one of `KINDS` with what both models say of them."""
    test = mnist()[1]
    if kind == "clean":
        images, seeds = test, np.arange(len(test))
    elif kind == "probe":
        images = torch.cat(list(ProbeSet(test, pixel_hash(test), scale.probe).chunks()))
        seeds = np.arange(len(images)) % len(test)
    else:
        found = triggers(pair, *KINDS[kind], scale)
        images, seeds = found.images, found.seeds.numpy()
    return Asked(images, *(ask(model, images) for model in opened(pair)), seeds)


@cache
def triggers(pair: str, side: str, strategy: str, scale: Scale) -> TriggerSet:
    """What a search finds from the first training or test images."""
    images = mnist()[0][: scale.learn] if side == "train" else mnist()[1][: scale.judge]
    found = find_triggers(*opened(pair), images, strategy=strategy, seed=scale.seed)
    print(f"{pair}: {len(found)} triggers from {len(images)} {side} images by {strategy}", file=sys.stderr, flush=True)
    return found


def microseconds(pair: str, head: Head, images: Tensor) -> tuple[float, float]:
    """Median time of the compressed model for one image, alone and with the head behind it; they take turns."""
    model = opened(pair)[1]
    both: list[tuple[Classifier, list[float]]] = [(model, []), (Corrected(model, head), [])]
    pixels = to_unit(images[:TIMED])
    with torch.inference_mode():
        for row in range(len(pixels)):
            for classifier, times in both:
                start = time.perf_counter()
                classifier(pixels[row : row + 1])
                times.append(time.perf_counter() - start)
    alone, behind = (1e6 * median(times[len(times) // 10 :]) for _, times in both)
    return alone, behind


@cache
def opened(pair: str) -> tuple[Classifier, Classifier]:
    """Original and compressed model."""
    models = open_pair(PAIRS[pair], ENDING)
    return models.original, models.compressed


def compressed_file(pair: str) -> Path:
    """The compressed model's file."""
    kind = PAIRS[pair]
    ending = ENDING if ENDING in kind.formats else kind.formats[0]
    return bench_folder() / "models" / f"{kind.compressed}{ending}"


@cache
def mnist() -> tuple[Tensor, Tensor]:
    """Training and test images."""
    data = load_data("mnist", str(bench_folder() / "data"))
    assert data.test_images is not None
    return data.train_images, data.test_images


def seeds_of(images: Tensor) -> Seeds:
    """Images with their ids."""
    return Seeds(images, pixel_hash(images))
