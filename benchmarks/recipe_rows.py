"""What a repair recipe and its placebo come to on a pair: search, train, write, open again, judge."""

import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dflare.api import find_triggers
from dflare.classifiers import Classifier, ModelPair, Outputs, ask
from dflare.models.opening import open_classifier
from dflare.seeds import pixel_hash
from dflare.triggers import TriggerSet
from experiments.data import load_data
from pairs import bench_folder
from repair.data import Examples, Mixture, RepairData
from repair.fit import Schedule, fit_steps
from repair.integers.bias_correction import CORRECTIONS
from repair.opening import open_trainable
from repair.proof.intervals import Figure
from repair.proof.metrics import paired_rates, share
from repair.recipes import BALANCES, Recipe

PAIRS = {
    "mnist_lenet-5-distilled": ("mnist_lenet-5/original.pt2", "mnist_lenet-5/distilled.pt2"),
    "mnist_lenet-5-int8": ("mnist_lenet-5/original.onnx", "mnist_lenet-5/int8.onnx"),
    "mnist_lenet-5-int8-pt2": ("mnist_lenet-5/original.pt2", "mnist_lenet-5/int8.pt2"),
}
"""Name -> original and compressed model below $DFLARE_BENCH/models."""

DISTILLED = "mnist_lenet-5-distilled"
CORRECTED = 1000
"""Clean training images that a correction of biases takes the means over."""

REPLAYED = 10_000
"""Clean training images that the replay draws from."""


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    seeds: int = 2  # of search and training
    learn: int = 600  # training images to search from
    judge: int = 400  # test images to search from
    steps: int = 300  # of the optimiser
    batch_size: int = 64  # images, half of them clean
    learning_rate: float = 1e-3
    strategy: str = "dflare-released"


QUICK = Scale(seeds=1, learn=200, judge=200, steps=100)


@dataclass(frozen=True)
class Row:
    """What a recipe and its placebo came to on a pair, over all seeds; rates in [0, 1] with 95 % intervals."""

    pair: str
    recipe: str
    parts: dict[str, Any]
    scale: dict[str, Any]
    triggers: int  # learnt, of all seeds
    efficacy: Figure  # share of the learnt triggers on which the pair agrees
    generalization: Figure  # of the held-out ones
    placebo: Figure  # the same after the placebo
    gain: Figure  # generalization - placebo, paired; triggers of one seed image count as alike
    clean_before: float  # share of clean test images on which the pair agrees, mean over the seeds
    clean_after: float
    clean_placebo: float
    broken: float  # share of clean test images that agreed before and deviate after, mean over the seeds
    seconds: float  # of one repair, mean


def measure(pair: str, name: str, recipe: Recipe, scale: Scale) -> Row:
    """Repair with the recipe and with its placebo once for each seed, and judge the files."""
    agreed: dict[str, list[np.ndarray]] = {"learnt": [], "held": [], "placebo": [], "groups": []}
    clean: dict[str, list[float]] = {"before": [], "after": [], "placebo": [], "broken": []}
    seconds, learnt = [], 0
    original, before = said_of_clean(pair, 0), said_of_clean(pair, 1)
    for seed in range(scale.seeds):
        train, held = (triggers(pair, side, seed, scale) for side in ("train", "test"))
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            repaired, free = trained(pair, recipe, scale, seed, train, train.images, None, Path(folder) / "repair")
            seconds.append(time.process_time() - start)
            control, _ = trained(pair, recipe, scale, seed, train, train.seed_images, free, Path(folder) / "placebo")
            agreed["learnt"].append(agrees(pair, repaired, train))
            agreed["held"].append(agrees(pair, repaired, held))
            agreed["placebo"].append(agrees(pair, control, held))
            agreed["groups"].append(held.seeds.numpy())
            after, placebo = (ask(open_classifier(path, threads=1), test_images()) for path in (repaired, control))
        agree = [~Outputs(original, scores).deviates for scores in (before, after, placebo)]
        for key, rate in zip(clean, (*agree, agree[0] & ~agree[1]), strict=True):
            clean[key].append(rate.double().mean().item())
        learnt += len(train)
    joined = {key: np.concatenate(parts) for key, parts in agreed.items()}
    groups = joined["groups"]
    return Row(
        pair=pair,
        recipe=name,
        parts=recipe.parts(),
        scale=asdict(scale),
        triggers=learnt,
        efficacy=share(joined["learnt"]),
        generalization=share(joined["held"], groups),
        placebo=share(joined["placebo"], groups),
        gain=paired_rates(joined["placebo"], joined["held"], groups).net,
        clean_before=float(np.mean(clean["before"])),
        clean_after=float(np.mean(clean["after"])),
        clean_placebo=float(np.mean(clean["placebo"])),
        broken=float(np.mean(clean["broken"])),
        seconds=float(np.mean(seconds)),
    )


def trained(
    pair: str,
    recipe: Recipe,
    scale: Scale,
    seed: int,
    found: TriggerSet,
    images: Tensor,
    free: tuple[str, ...] | None,
    folder: Path,
) -> tuple[Path, tuple[str, ...]]:
    """Train the compressed model on images in the place of the triggers found; the written file and what was free."""
    source = model_file(pair, 1)
    trainable, balance = open_trainable(source, scales=recipe.scales), BALANCES[recipe.balance]
    clean = mnist()[0][:CORRECTED]
    CORRECTIONS[recipe.correction](trainable, lambda: open_trainable(model_file(pair, 0)), clean)
    learn = Examples(images, ask(opened(pair, 0), images).softmax(-1), labels_of(found))
    replay = 0.5 if recipe.replay is None else recipe.replay
    mixture = Mixture(
        learn, replayed(pair), scale.batch_size, replay, seed, None if balance is None else balance(found.outputs)
    )
    nothing = Examples(images[:0], learn.targets[:0])
    schedule = Schedule(scale.steps, scale.learning_rate, validate_every=scale.steps, patience=1)
    data = RepairData(mixture, scale.steps, nothing, nothing)
    fitted = fit_steps(trainable, data, recipe, schedule, scale.steps, free)
    folder.mkdir()
    target = folder / source.name
    trainable.write(fitted.weights, target)
    trainable.check(target)
    return target, fitted.free


def agrees(pair: str, compressed: Path, found: TriggerSet) -> np.ndarray:
    """Whether the original and the model in a file agree on each trigger, asked alone, (n,) bool."""
    return ~found.verify(ModelPair(opened(pair, 0), open_classifier(compressed, threads=1))).numpy()


@cache
def triggers(pair: str, side: str, seed: int, scale: Scale) -> TriggerSet:
    """What the search finds from the first training or test images."""
    images = mnist()[0][: scale.learn] if side == "train" else mnist()[2][: scale.judge]
    found = find_triggers(opened(pair, 0), opened(pair, 1), images, strategy=scale.strategy, seed=seed)
    print(f"{pair}, seed {seed}: {len(found)} triggers from {len(images)} {side} images", file=sys.stderr, flush=True)
    return found


def labels_of(found: TriggerSet) -> Tensor:
    """The data set's labels of the seeds of triggers found from training images, (n,) int64."""
    images, labels = mnist()[:2]
    ids = pixel_hash(images[:REPLAYED]).tolist()
    by_id = dict(zip(ids, labels[:REPLAYED].tolist(), strict=True))
    return torch.tensor([by_id[one] for one in found.seeds.tolist()])


@cache
def replayed(pair: str) -> Examples:
    """Clean training images with the original's probabilities."""
    images, labels = (part[:REPLAYED] for part in mnist()[:2])
    return Examples(images, ask(opened(pair, 0), images).softmax(-1), labels)


@cache
def said_of_clean(pair: str, which: int) -> Tensor:
    """Scores of the original (0) or compressed (1) model on all test images."""
    return ask(opened(pair, which), test_images())


@cache
def opened(pair: str, which: int) -> Classifier:
    """The original (0) or compressed (1) model."""
    return open_classifier(model_file(pair, which), threads=1)


def model_file(pair: str, which: int) -> Path:
    """The file of the original (0) or compressed (1) model."""
    return bench_folder() / "models" / PAIRS[pair][which]


@cache
def mnist() -> tuple[Tensor, Tensor, Tensor]:
    """Training images and labels, test images."""
    data = load_data("mnist", str(bench_folder() / "data"))
    assert data.train_labels is not None
    assert data.test_images is not None
    return data.train_images, data.train_labels, data.test_images


def test_images() -> Tensor:
    """All 10,000 test images."""
    return mnist()[2]
