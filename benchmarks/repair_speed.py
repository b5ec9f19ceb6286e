"""The speed of a repair: milliseconds a step and seconds in all, for each model and kind of compression.

    OMP_NUM_THREADS=2 python benchmarks/repair_speed.py            the twelve pairs, default settings of `dflare repair`
    python benchmarks/repair_speed.py --quick                      fewer steps; seconds in all are reckoned from them
    python benchmarks/repair_speed.py --models mnist_lenet-5       some models, separated by commas
    python benchmarks/repair_speed.py --json speed.json            also as JSON
    python benchmarks/repair_speed.py --check                      exit 1 where issue 5's seconds are not reached

    OMP_NUM_THREADS=1 python benchmarks/repair_speed.py --quick --cpu-time    where others work too

The baseline beside each is measured in the same run: a plain PyTorch loop that fine-tunes the pair's float original
(Adam, the same batches, no Lightning, no projections, no quantisers, no validation). "Late" is the recipe `last`,
which trains from the kept activations of the frozen beginning. Images are the data set's own under $DFLARE_BENCH
(default: the folder `shared` beside the project), clean ones in the place of triggers too: a step takes as long.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dflare.errors import InputError
from experiments.config import RepairSettings
from experiments.data import load_data
from experiments.environment import environment
from pairs import bench_folder
from repair.data import Examples, Mixture, RepairData
from repair.fit import Schedule, fit, fit_steps
from repair.module import Repair
from repair.opening import open_trainable
from repair.recipes import RECIPES

MODELS = {"mnist_lenet-5": ("mnist", 30.0), "mnist_simplecnn": ("mnist", None), "cifar-10_resnet20": ("cifar10", 600.0)}
"""Folder -> its images, and the seconds that issue 5 allows for a repair on two cores."""

KINDS = ("distilled.pt2", "pruned.pt2", "int8.pt2", "int8.onnx")
TRIGGERS = 400
"""Images in the place of triggers on the train side and again on the validate side."""

WARM = 3
"""Steps before the clock runs."""

Clock = Callable[[], float]
"""Seconds, of the wall or of this process's processors."""


@dataclass(frozen=True)
class Row:
    """What a pair came to; milliseconds are of one optimiser step, everything that happens at it counted."""

    model: str
    kind: str
    plain: float  # ms, of the plain loop on the float original
    step: float  # ms, of the repair without validation
    validation: float  # seconds of one
    seconds: float  # of a repair with the default settings that no early stop ends
    measured: bool  # whether these seconds are of a whole repair, or reckoned from steps and validations
    late: float  # ms, of the recipe `last`; the run of the frozen beginning counted apart
    allowed: float | None  # seconds


def main() -> int:
    """Measure, print, and say by the exit code whether all is as fast as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--kinds", default=",".join(KINDS))
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    try:
        names, kinds = (_chosen(text, known) for text, known in ((options.models, MODELS), (options.kinds, KINDS)))
        rows = [_told(measure(name, kind, options.quick, clock)) for name in names for kind in kinds]
    except InputError as error:
        print(f"repair_speed: {error}", file=sys.stderr)
        return 2
    if options.json is not None:
        content = {
            "environment": environment({}),
            "threads": torch.get_num_threads(),
            "rows": [asdict(r) for r in rows],
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    slow = [row for row in rows if row.allowed is not None and row.seconds > row.allowed]
    for row in slow if options.check else ():
        print(f"too slow: {row.model} {row.kind} takes {row.seconds:.0f} s, allowed are {row.allowed:.0f}")
    return 1 if slow and options.check else 0


def measure(name: str, kind: str, quick: bool, clock: Clock) -> Row:
    """The row of a pair; seconds are of a whole repair unless `quick`."""
    settings, (images, allowed) = RepairSettings(), MODELS[name]
    folder = bench_folder() / "models" / name
    data, steps = _data(images, settings), 20 if quick else 100
    schedule = Schedule(settings.steps, settings.learning_rate, settings.validate_every, settings.steps)
    plain = _plain(folder / "original.pt2", data, steps, clock)
    step, late = (way(folder / kind, data, schedule, steps, clock) for way in (_step, _late))
    once = Schedule(WARM, settings.learning_rate, WARM, 1)
    validation = max(0.0, _repair(folder / kind, data, once, clock) - WARM * step / 1000)
    validations = settings.steps // settings.validate_every
    reckoned = settings.steps * step / 1000 + validations * validation
    seconds = reckoned if quick else _repair(folder / kind, data, schedule, clock)
    return Row(name, kind, plain, step, validation, seconds, not quick, late, allowed)


def _told(row: Row) -> Row:
    limit = "" if row.allowed is None else f" (allowed {row.allowed:.0f})"
    print(
        f"{row.model:18} {row.kind:14} plain {row.plain:7.1f} ms  repair {row.step:7.1f} ms  late {row.late:6.1f} ms  "
        f"validation {row.validation:6.2f} s  {'measured' if row.measured else 'reckoned'} {row.seconds:6.1f} s{limit}",
        flush=True,
    )
    return row


def _data(name: str, settings: RepairSettings) -> RepairData:
    """Sides as `dflare repair` makes them: three quarters of the training images to learn, one to validate."""
    loaded = load_data(name, str(bench_folder() / "data"))
    assert loaded.train_labels is not None
    targets = (6.0 * F.one_hot(loaded.train_labels, 10)).softmax(-1)

    def examples(rows: slice) -> Examples:
        return Examples(loaded.train_images[rows], targets[rows])

    count = len(targets)
    learn, watch = examples(slice(0, TRIGGERS)), examples(slice(count - TRIGGERS, count))
    clean, validate = examples(slice(TRIGGERS, 3 * count // 4)), examples(slice(3 * count // 4, count - TRIGGERS))
    mixture = Mixture(learn, clean, settings.batch_size, settings.replay, 0)
    return RepairData(mixture, settings.validate_every, watch, validate)


def _plain(original: Path, data: RepairData, steps: int, clock: Clock) -> float:
    """Milliseconds of a step of a plain loop that fine-tunes the float original; the median over its steps."""
    module = open_trainable(original).module
    optimizer = torch.optim.Adam([weight for weight in module.parameters() if weight.requires_grad], 1e-3)
    times: list[float] = []
    for number in range(WARM + steps):
        began = clock()
        batch = data.mixture[number]
        optimizer.zero_grad()
        F.cross_entropy(module(batch.images), batch.targets).backward()
        optimizer.step()
        times.append(clock() - began)
    return 1000 * statistics.median(times[WARM:])


def _step(path: Path, data: RepairData, schedule: Schedule, steps: int, clock: Clock) -> float:
    """Milliseconds of a step of a repair of all weights, between the first after the warm-up and the last."""
    return _between(path, data, schedule, steps, clock, "imitation")


def _late(path: Path, data: RepairData, schedule: Schedule, steps: int, clock: Clock) -> float:
    """The same of the last layer's weights, from kept activations."""
    return _between(path, data, schedule, steps, clock, "last")


def _between(path: Path, data: RepairData, schedule: Schedule, steps: int, clock: Clock, recipe: str) -> float:
    times: list[float] = []
    usual = Repair.training_step

    def timed(module: Repair, batch: object, batch_idx: int) -> Tensor:
        times.append(clock())
        return usual(module, batch, batch_idx)  # type: ignore[arg-type]

    setattr(Repair, "training_step", timed)  # noqa: B010  (a wrapper of the same method)
    try:
        fit_steps(open_trainable(path), data, RECIPES[recipe], schedule, WARM + steps)
    finally:
        setattr(Repair, "training_step", usual)  # noqa: B010
    return 1000 * (times[-1] - times[WARM]) / (len(times) - 1 - WARM)


def _repair(path: Path, data: RepairData, schedule: Schedule, clock: Clock) -> float:
    """Seconds of a repair from the file to its weights, validation and checkpoints among them."""
    data = RepairData(data.mixture, min(data.epoch_steps, schedule.steps), *data.validate)
    with tempfile.TemporaryDirectory() as folder:
        began = clock()
        fit(open_trainable(path), data, RECIPES["imitation"], schedule, Path(folder))
        return clock() - began


def _chosen(text: str, known: object) -> list[str]:
    names, right = text.split(","), list(known)  # type: ignore[call-overload]
    for name in names:
        if name not in right:
            raise InputError(f"expected some of {', '.join(right)}, got {name!r}")
    return names


if __name__ == "__main__":
    sys.exit(main())
