"""Real pairs, run: published models on all their test images, against the figures published of them.

    python benchmarks/real_pairs.py            every pair (some minutes)
    python benchmarks/real_pairs.py --quick    the pairs that answer within seconds
    python benchmarks/real_pairs.py --check    exit 1, naming each row off by more than 2 images and not explained

Models and images are found under $DFLARE_BENCH (default: the folder `shared` beside the project). Every model is asked
about every image, 64 at once with one thread; a rate is images a second of the processor. Published are mostly
*differing* labels, the first top classes; beside them stand those that deviate (no top class in common), and the mere
ties. Some 0.2 % of the CIFAR-10 images at hand are stand-ins decoded from JPEG: `lossless` is `differing` without them.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from backends import trace
from dflare.classifiers import Outputs, ask
from dflare.errors import InputError
from dflare.models.opening import open_classifier
from dflare.models.shown import Shown
from dflare.models.usercode import call_reference
from experiments.data import load_data
from experiments.environment import environment
from pairs import bench_folder
from published import Model, Published, find_published

TOLERANCE = 2
"""Images by which a count may differ from the published one."""

BATCH = 64

EXPLAINED: dict[str, str] = {}
"""Pair -> why it is off by more than `TOLERANCE`, with the evidence."""


@dataclass(frozen=True)
class Row:
    """What was counted for a pair. Counts are of images, accuracies in [0, 1], rates in images a processor second."""

    pair: Published
    images: int
    right: tuple[int, int]  # of the original and the compressed model
    differing: int
    deviating: int
    tied: int  # differing and not deviating
    tied_answers: tuple[int, int]  # on how many images several classes share a model's top score
    lossless_images: int
    lossless_differing: int
    rates: tuple[float, float]

    @property
    def off(self) -> list[str]:
        """What is off by more than `TOLERANCE` images, in words."""
        wanted = [None if one is None else round(one * self.images) for one in self.pair.accuracies]
        figures = (
            ("differing", self.differing, self.pair.differing),
            ("deviating", self.deviating, self.pair.deviating),
            ("right answers of the original", self.right[0], wanted[0]),
            ("right answers of the compressed", self.right[1], wanted[1]),
        )
        return [
            f"{name} {came:,}, published {figure:,}"
            for name, came, figure in figures
            if figure is not None and abs(came - figure) > TOLERANCE
        ]

    @property
    def verdict(self) -> str:
        """Ok, explained, off, or that nothing was published."""
        if self.off:
            return "explained" if self.pair.name in EXPLAINED else "off"
        return "-" if self.pair.differing is None else "ok"


class Images(NamedTuple):
    """Images (n, c, h, w) uint8, labels (n,), and which of the images are exactly the published ones, (n,) bool."""

    images: Tensor
    labels: Tensor
    lossless: Tensor


class Answers(NamedTuple):
    """Scores (n, classes) of all test images, and images answered a second of the processor."""

    scores: Tensor
    rate: float


HEADINGS = (
    "pair", "accuracy: original", "compressed", "differing", "published", "lossless", "deviating", "tied",
    "answers tied: original", "compressed", "images/s: original", "compressed", "verdict",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table, and return the exit code: 0, 1 for a row that is off, 2 for bad input."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[Row] = []
    try:
        wanted = find_published(options.pairs, options.quick)
        print(f"| {' | '.join(HEADINGS)} |\n| :-- |{' --: |' * (len(HEADINGS) - 2)} :-- |", flush=True)
        for pair in wanted:
            rows.append(measure(pair))
            print(line(rows[-1]), flush=True)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    bad = [row for row in rows if row.off]
    for row in bad:
        print(f"\n{row.pair.name}: {'; '.join(row.off)}. {EXPLAINED.get(row.pair.name, 'Not explained.')}")
    if options.json:
        content = {"environment": environment({}), "rows": [asdict(row) | {"off": row.off} for row in rows]}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    unexplained = [row for row in bad if row.verdict == "off"]
    for row in unexplained:
        print(f"off: {row.pair.name}: {'; '.join(row.off)}", file=sys.stderr)
    return 1 if options.check and unexplained else 0


def measure(pair: Published) -> Row:
    """Ask both models about all test images; raises `InputError` for missing files."""
    original, compressed = answers(pair.original, pair.data), answers(pair.compressed, pair.data)
    return counted(pair, original, compressed, test_set(pair.data))


def counted(pair: Published, original: Answers, compressed: Answers, test: Images) -> Row:
    """What the answers of both models to the test images come to."""
    outputs = Outputs(original.scores, compressed.scores)
    first, second = outputs.labels
    differing = first != second
    tops = [scores == scores.amax(-1, keepdim=True) for scores in outputs]
    return Row(
        pair=pair,
        images=len(test.images),
        right=(int((first == test.labels).sum()), int((second == test.labels).sum())),
        differing=int(differing.sum()),
        deviating=int(outputs.deviates.sum()),
        tied=int(outputs.tied.sum()),
        tied_answers=(int((tops[0].sum(-1) > 1).sum()), int((tops[1].sum(-1) > 1).sum())),
        lossless_images=int(test.lossless.sum()),
        lossless_differing=int((differing & test.lossless).sum()),
        rates=(original.rate, compressed.rate),
    )


@cache
def answers(model: Model, data: str) -> Answers:
    """What a model says of all test images, asked once."""
    classifier, images = opened(model), test_set(data).images
    ask(classifier, images[:BATCH], model.file, BATCH)  # opens sessions
    start = time.process_time()
    scores = ask(classifier, images, model.file, BATCH)
    return Answers(scores, len(images) / (time.process_time() - start))


@cache
def test_set(name: str) -> Images:
    """The test images of a data set under $DFLARE_BENCH, in official order."""
    root = bench_folder() / "data"
    data = load_data(name, str(root))
    assert data.test_images is not None
    assert data.test_labels is not None
    lossless = torch.ones(len(data.test_images), dtype=torch.bool)
    if name == "cifar10":
        with np.load(root / "cifar10" / "cifar10_labels.npz", allow_pickle=False) as marks:
            lossless = torch.from_numpy(marks["test_lossless"])
    return Images(data.test_images, data.test_labels, lossless)


def opened(model: Model) -> Shown:
    """The model as a classifier with one thread; raises `InputError` where that cannot be."""
    path = bench_folder() / "models" / model.file
    if model.code is None:
        return open_classifier(path, model.interface, threads=1, kernels=model.kernels)
    network = call_reference(model.code, path, allow_code=True)
    if not model.traced:
        return Shown(network, model.interface, network.takes, model.code)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "traced.pt"
        trace(network.model, torch.zeros(1, 3, 32, 32), file)
        classifier = open_classifier(file, model.interface, threads=1, allow_code=True)
        ask(classifier, torch.zeros(1, 3, 32, 32, dtype=torch.uint8))  # reads the file before it goes
    return classifier


def line(row: Row) -> str:
    """A row of the table."""
    accuracies = [
        _against(right / row.images, told) for right, told in zip(row.right, row.pair.accuracies, strict=True)
    ]
    deviating = f"{row.deviating:,}" + ("" if row.pair.deviating is None else f" ({row.pair.deviating:,})")
    cells = [
        f"`{row.pair.name}`",
        *accuracies,
        f"{row.differing:,}",
        "-" if row.pair.differing is None else f"{row.pair.differing:,}",
        f"{row.lossless_differing:,}",
        deviating,
        f"{row.tied:,}",
        *(f"{count:,}" for count in row.tied_answers),
        *(f"{rate:,.0f}" for rate in row.rates),
        row.verdict,
    ]
    return f"| {' | '.join(cells)} |"


def _against(came: float, told: float | None) -> str:
    return f"{100 * came:.2f}" + ("" if told is None else f" ({100 * told:.2f})")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Count what published pairs of models say of their test images.")
    parser.add_argument("--quick", action="store_true", help="the pairs that answer within seconds")
    parser.add_argument("--check", action="store_true", help="exit 1 when a row is off and not explained")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything to a file")
    parser.add_argument("--pairs", metavar="A,B", help="some of the pairs, by the names in the table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
