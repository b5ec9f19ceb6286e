"""The memory benchmark: a million seeds streamed from disk through the search, whose memory must stay flat.

    python benchmarks/memory.py            10,000 and 1,000,000 seeds (minutes)
    python benchmarks/memory.py --quick    2,000 and 50,000 seeds
    python benchmarks/memory.py --check    exit 1 when the larger peak exceeds the smaller by more than 10 %

Each size runs in a process of its own, on 1 x 8 x 8 images and a pair of two linear classifiers that deviate between
two sums of grey levels. Printed are the peak of the resident set and the share of full batches.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dflare.classifiers import ModelPair
from dflare.search import Search, Tally
from dflare.seeds import Seeds, pixel_hash
from dflare.strategies import make_kernel

SHAPE = (1, 8, 8)
CHUNK = 4096
"""Seeds read from disk, and written to it, at a time."""

GROWTH = 1.1
"""Largest allowed ratio of the two peaks."""

DARK, BRIGHT = 8000, 8160
"""Sums of 64 grey levels beyond which the compressed and the original model say "bright"."""


def main(arguments: list[str] | None = None) -> int:
    """Measure both sizes, print, and return the exit code: 1 for memory that grows under `--check`."""
    options = _parser().parse_args(arguments)
    if options.stream:
        print(json.dumps(stream(options.stream, options.strategy, options.max_queries, options.batch_size)))
        return 0
    sizes = (2_000, 50_000) if options.quick else (10_000, 1_000_000)
    found = [_in_own_process(size, options) for size in sizes]
    for one in found:
        print(
            f"{one['seeds']:>9,} seeds: peak {one['peak'] / 2**20:.1f} MiB, full batches {one['full_share']:.2%}, "
            f"{one['queries']:,} queries, {one['seconds']:.1f} s, endings {one['endings']}"
        )
    ratio = found[1]["peak"] / found[0]["peak"]
    extra = (found[1]["peak"] - found[0]["peak"]) / (sizes[1] - sizes[0])
    verdict = "ok" if ratio <= GROWTH else "short"
    print(
        f"peak at {sizes[1]:,} against {sizes[0]:,}: {ratio:.3f}x (<= {GROWTH}x), {extra:.1f} bytes a seed: {verdict}"
    )
    if options.json:
        content = {"sizes": found, "ratio": ratio, "bytes_per_seed": extra, "verdict": verdict}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 1 if options.check and verdict == "short" else 0


def stream(path: Path, strategy: str, max_queries: int, batch_size: int) -> dict[str, Any]:
    """Search from every seed of the file; how they ended, and this process's peak of the resident set in bytes."""
    torch.set_num_threads(1)
    pair, confirm = (ModelPair(Linear(BRIGHT), Linear(DARK)) for _ in range(2))
    search, tally = Search(make_kernel(strategy), pair, confirm, 0, max_queries, batch_size), Tally()
    endings: Counter[str] = Counter()
    start = time.perf_counter()
    for ended in search.run(read_seeds(path), tally):
        endings[ended.ending.name] += len(ended.chains)
    return {
        "seeds": sum(endings.values()),
        "endings": dict(sorted(endings.items())),
        "queries": tally.queries,
        "batches": tally.batches,
        "full_share": tally.full / tally.batches,
        "seconds": time.perf_counter() - start,
        "peak": peak(),
    }


def peak() -> int:
    """The largest resident set of this process so far, in bytes.

    From Linux's own record of this program, because `getrusage` also remembers the process that started it, and that
    one has just written the file.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1]) * 1024  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Linear:
    """A linear classifier: class 1 when the sum of grey levels exceeds the threshold; exact, so the same in batches."""

    def __init__(self, threshold: int) -> None:
        self.threshold = threshold

    def __call__(self, images: Tensor) -> Tensor:
        margin = ((images * 255).round().sum((1, 2, 3)) - self.threshold) / 400
        return torch.stack([-margin, margin], dim=-1)


def write_seeds(path: Path, count: int) -> None:
    """A file of `count` different noise images, uint8 one after another, on most of which the pair agrees."""
    random = np.random.default_rng(0)
    images = np.memmap(path, np.uint8, "w+", shape=(count, *SHAPE))
    for start in range(0, count, CHUNK):
        here = images[start : start + CHUNK]
        here[:] = random.integers(0, 240, here.shape, dtype=np.uint8)
    images.flush()


def read_seeds(path: Path) -> Iterator[Seeds]:
    """The seeds of a file in chunks; the file is mapped anew for each, because pages once read stay resident."""
    size = int(np.prod(SHAPE))
    count = path.stat().st_size // size
    for start in range(0, count, CHUNK):
        shape = (min(CHUNK, count - start), *SHAPE)
        images = torch.from_numpy(np.array(np.memmap(path, np.uint8, "r", start * size, shape)))
        yield Seeds(images, pixel_hash(images))


def _in_own_process(size: int, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seeds.raw"
        write_seeds(path, size)
        command = [sys.executable, __file__, "--stream", str(path), "--strategy", options.strategy]
        command += ["--max-queries", str(options.max_queries), "--batch-size", str(options.batch_size)]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Show that memory does not grow with the number of seeds.")
    parser.add_argument("--quick", action="store_true", help="2,000 and 50,000 seeds in place of 10,000 and 1,000,000")
    parser.add_argument("--check", action="store_true", help="exit 1 when memory grows by more than 10 %%")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to a file")
    parser.add_argument("--strategy", default="dflare-released", help="default dflare-released")
    parser.add_argument("--max-queries", type=int, default=10, metavar="N", help="budget of a seed (default 10)")
    parser.add_argument("--batch-size", type=int, default=1024, metavar="N", help="default 1024")
    parser.add_argument("--stream", type=Path, metavar="FILE", help="only search from the seeds of a raw file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
