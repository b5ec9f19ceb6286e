"""The operational estimate on real pairs: is it unbiased, does its interval cover, how many questions does it save?

    python benchmarks/estimate.py            MNIST and CIFAR-10 pairs, and made-up ones
    python benchmarks/estimate.py --quick    the MNIST pairs of LeNet-5 and the made-up ones
    python benchmarks/estimate.py --check    exit 1 where an estimate is biased or an interval covers too rarely

Both models of a pair are asked about all test images once, and the answers kept ($DFLARE_CACHE); the share of these
that deviates is the truth. Then the estimate is made 1,000 times from the answers, with other draws. Made-up pairs have
the margins of LeNet-5 and deviations where they please. Beside the two intervals of the estimate stand the two that
suggest themselves: value +- z standard errors, and Wilson's for the effective number of questions; and the bias of the
unweighted share.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse
import io
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dflare.classifiers import Outputs, ask
from dflare.errors import InputError
from dflare.hashing import file_hash
from dflare.models.opening import open_classifier
from experiments.cache import cached
from experiments.data import load_data
from experiments.environment import environment
from experiments.making import cache_folder
from pairs import bench_folder
from repair.proof.estimate import quantile
from repair.proof.estimate_comparison import simple_random_queries, simulate
from repair.proof.estimate_design import Numbers, stratify
from repair.proof.estimate_intervals import Asked, modelled_interval, profile_interval

REPETITIONS = 1000

Z = quantile(0.95)

COVERED = (0.93, 0.97)
"""What an interval of 95 % is to cover; where nothing deviates it always does."""

SLACK = 0.007
"""One standard error of a share of 1,000 that is really 95 %."""

NETWORKS = (("mnist_lenet-5", "mnist"), ("mnist_simplecnn", "mnist"), ("cifar-10_resnet20", "cifar10"))

COMPRESSED = {"mnist": ("int8.onnx", "pruned.pt2", "distilled.pt2"), "cifar10": ("int8.onnx", "distilled.onnx")}

MADE_UP = ("anywhere", "thinning out", "the surest", "near ties and anywhere")

Ends = tuple[Numbers, Numbers]


@dataclass(frozen=True)
class Population:
    """A pair's answers to all images: the original's margins (n,) and which images deviate, (n,) bool."""

    name: str
    margins: Numbers
    deviates: NDArray[np.bool_]


@dataclass(frozen=True)
class Row:
    """What 1,000 estimates came to. Rates, widths and shares in [0, 1]; `bias` in standard errors of its mean."""

    pair: str
    images: int
    queries: int
    rate: float  # the truth
    bias: float
    unweighted_bias: float  # of the unweighted share of what was asked
    coverage: dict[str, float]
    width: dict[str, float]  # mean
    simple_random: dict[str, float | None]  # questions that it needs for the same mean width, and for the same variance

    @property
    def bad(self) -> list[str]:
        """What does not hold, in words."""
        found = [f"bias of {self.bias:.1f} standard errors"] if abs(self.bias) > 4 else []
        covers = self.coverage["profile"]
        kept = COVERED[0] - SLACK <= covers <= COVERED[1] + SLACK or self.rate == 0
        return found if kept else [*found, f"the interval covers {100 * covers:.1f} %"]


def normal_interval(asked: Asked, z: float) -> Ends:
    """Value +- z standard errors, from the strata's own shares."""
    value = asked.estimate()
    half = z * np.sqrt(asked.variance(asked.hits / asked.asked))
    return value - half, value + half


def effective_wilson(asked: Asked, z: float) -> Ends:
    """Wilson's interval for as many questions as simple random sampling needs for the variance seen; all, if none."""
    value, variance = np.clip(asked.estimate(), 0, 1), asked.variance(asked.hits / asked.asked)
    spread = value * (1 - value)
    n = np.where(variance > 0, spread / np.where(variance > 0, variance, 1), asked.asked.sum(-1))
    centre, half = value + z * z / (2 * n), z * np.sqrt(spread / n + (z / (2 * n)) ** 2)
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


INTERVALS: dict[str, Callable[[Asked, float], Ends]] = {
    "profile": profile_interval,
    "modelled": modelled_interval,
    "normal": normal_interval,
    "effective Wilson": effective_wilson,
}


def measure(population: Population, queries: int, seed: int = 0) -> Row:
    """The row of a population."""
    strata, truth, n = stratify(population.margins), float(population.deviates.mean()), len(population.margins)
    asked = simulate(strata, strata.totals(population.deviates), queries, REPETITIONS, seed)
    values, share = asked.estimate(), asked.hits.sum(-1) / asked.asked.sum(-1)
    ends = {name: interval(asked, Z) for name, interval in INTERVALS.items()}
    widths = {name: float((high - low).mean()) for name, (low, high) in ends.items()}
    variance = float(values.var())
    return Row(
        pair=population.name,
        images=n,
        queries=queries,
        rate=truth,
        bias=_standard_errors(values, truth),
        unweighted_bias=_standard_errors(share, truth),
        coverage={name: float(((a <= truth + 1e-12) & (truth <= b + 1e-12)).mean()) for name, (a, b) in ends.items()},
        width=widths,
        simple_random={name: simple_random_queries(truth, widths[name], n, Z) for name in ("profile", "modelled")}
        | {"variance": 1 / (variance / (truth * (1 - truth)) + 1 / n) if truth else None},
    )


def _standard_errors(values: Numbers, truth: float) -> float:
    error, spread = float(values.mean() - truth), float(values.std())
    return error / (spread / math.sqrt(len(values))) if spread else error and math.copysign(math.inf, error)


def populations(quick: bool) -> Iterator[Population]:
    """Real pairs, then made-up ones with the margins of LeNet-5."""
    margins: Numbers | None = None
    for network, data in NETWORKS[:1] if quick else NETWORKS:
        for file in COMPRESSED[data]:
            pair = _real(network, data, file)
            margins = pair.margins if margins is None else margins
            yield pair
    assert margins is not None
    for kind in MADE_UP:
        for rate in (0.002, 0.01, 0.02):
            yield _made_up(kind, rate, margins)


def _real(network: str, data: str, file: str) -> Population:
    folder = bench_folder() / "models" / network
    original, compressed = _scores(folder / "original.onnx", data), _scores(folder / file, data)
    tops = original.double().topk(2, -1).values
    deviates = Outputs(original, compressed).deviates.numpy()
    return Population(f"{network}-{file}", (tops[:, 0] - tops[:, 1]).numpy(), deviates)


def _scores(path: Path, data: str) -> torch.Tensor:
    """A model's scores of all test images, asked once and kept."""

    def fill(folder: Path) -> None:
        images = load_data(data, str(bench_folder() / "data")).test_images
        assert images is not None
        buffer = io.BytesIO()
        np.save(buffer, ask(open_classifier(path, threads=1), images, path.name, 64).numpy(), allow_pickle=False)
        (folder / "scores.npy").write_bytes(buffer.getvalue())

    if not path.is_file():
        raise InputError(f"expected a model at {path}; set DFLARE_BENCH to the folder that holds models and data")
    kept = cached(cache_folder(), f"scores-{path.parent.name}-{path.name}", f"{file_hash(path)} {data}", fill)
    return torch.from_numpy(np.load(kept / "scores.npy", allow_pickle=False))


def _made_up(kind: str, rate: float, margins: Numbers) -> Population:
    """Deviations at a rate, by rank: anywhere, as 1 / rank, the surest most often, or half near ties, half anywhere."""
    n = len(margins)
    place = np.empty(n)
    place[np.argsort(margins, kind="stable")] = (np.arange(n) + 0.5) / n
    weight = {
        "anywhere": np.ones(n),
        "thinning out": 1 / (place + 0.01),
        "the surest": place,
        "near ties and anywhere": np.where(place < 0.01, 1.0, 0.01),
    }[kind]
    deviates = np.zeros(n, dtype=bool)
    chosen = np.random.default_rng(1).choice(n, round(rate * n), replace=False, p=weight / weight.sum())
    deviates[chosen] = True
    return Population(f"{kind}, {100 * rate:g} %", margins, deviates)


HEADINGS = (
    "pair",
    "rate",
    "bias (s.e.)",
    "unweighted",
    *(f"{name}: covers, width" for name in INTERVALS),
    "simple random: same profile",
    "modelled",
    "variance",
)


def line(row: Row) -> str:
    """A row of the table."""
    both = [f"{100 * row.coverage[name]:.1f}, {100 * row.width[name]:.2f}" for name in INTERVALS]
    needed = ["-" if count is None else f"{count:,.0f}" for count in row.simple_random.values()]
    bias = [f"{row.bias:+.1f}", f"{row.unweighted_bias:+.0f}"]
    return f"| {' | '.join([row.pair, f'{100 * row.rate:.2f}', *bias, *both, *needed])} |"


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table, and return the exit code: 0, 1 for a row that is bad, 2 for bad input."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[Row] = []
    print(f"| {' | '.join(HEADINGS)} |\n| :-- |{' --: |' * (len(HEADINGS) - 1)}", flush=True)
    try:
        for population in populations(options.quick):
            rows.append(measure(population, options.queries))
            print(line(rows[-1]), flush=True)
    except (InputError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        content = {"environment": environment({}), "rows": [asdict(row) | {"bad": row.bad} for row in rows]}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    bad = [f"{row.pair}: {', '.join(row.bad)}" for row in rows if row.bad]
    print(*bad, sep="\n", file=sys.stderr, end="\n" if bad else "")
    return 1 if options.check and bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure the operational estimate on pairs whose rate is known.")
    parser.add_argument("--quick", action="store_true", help="LeNet-5 and the made-up pairs")
    parser.add_argument(
        "--check", action="store_true", help="exit 1 when an estimate is biased or an interval too narrow"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything to a file")
    parser.add_argument("--queries", type=int, default=400, help="of each estimate")
    return parser


if __name__ == "__main__":
    sys.exit(main())
