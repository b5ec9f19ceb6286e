"""Mixed precision repair in a run: the file as handed in, with more bits, from which its trainings start."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dflare.errors import InputError
from dflare.triggers import Side
from experiments.config import Config
from experiments.files import write_atomic
from experiments.run import Run, Standing, images_of
from experiments.terminal import say
from repair.proof.metrics import plain
from repair.proof.probe import ProbeSet

if TYPE_CHECKING:
    from repair.precision.deciding import Decision, Wish
    from repair.precision.mixed_precision import Asked, Bench, Step

ORDERED_BY = 4
"""One image of the train side orders the activations for so many of the validate side that judge the choice."""


def check_precision(run: Run) -> None:
    """Raise `InputError` where more bits are asked for and the model handed in cannot have them."""
    if not is_asked(run.settings):
        return
    wants = "repair.precision gives 16 bits to tensors of an int8 .onnx or .pt2 file"
    file = run.subject.files.get("compressed")
    if file is None:
        raise InputError(f"{wants}, but the compressed model of {run.subject.name} is no file; remove repair.precision")
    from repair.precision.deciding import check_wish

    try:
        check_wish(file, _wish(run.settings))
    except InputError as error:
        raise InputError(f"{wants}, which {file} refuses: {error}; remove repair.precision or change it") from error


def is_asked(settings: Config) -> bool:
    """Whether the settings ask for more bits."""
    asked = settings.repair.precision
    return asked.activations is not None or asked.weights > 0 or asked.float_output


def training_start(run: Run, now: Standing) -> Path:
    """The model that a round's training starts from: the one that enters it, or that handed in with its bits.

    The bits are decided in round 0, by images of the train and the validate side; later rounds keep them, and so does
    a round after one that was rolled back. Where nothing is worth more bits, the model is the one that enters.
    """
    if not is_asked(run.settings) or now.model != run.subject.files["compressed"]:
        return now.model
    folder = run.folder.round(0)
    target = folder / "precision" / f"model{now.model.suffix}"
    if not (folder / "precision.json").exists():
        say("round 0: which tensors get 16 bits")
        shutil.rmtree(target.parent, ignore_errors=True)  # what a killed process left
        _widen(run, now.model, target)
    return target if target.exists() else now.model


def _widen(run: Run, model: Path, target: Path) -> None:
    """Write the model with its bits, if it gets any, and `precision.json`."""
    from repair.precision.deciding import decide

    bench, learned = _bench(run, model, target.parent / "candidates")
    decision = decide(bench, _wish(run.settings), run.settings.seed)
    if decision.bits:
        bench.format.write(model, decision.bits, target)
    shutil.rmtree(bench.folder, ignore_errors=True)
    write_atomic(target.parents[1] / "precision.json", json.dumps(_told(run, bench, learned, decision)) + "\n")


def _wish(settings: Config) -> "Wish":
    from repair.precision.deciding import Wish

    return Wish(**{key: value for key, value in asdict(settings.repair.precision).items() if key != "images"})


def _bench(run: Run, model: Path, folder: Path) -> "tuple[Bench, int]":
    """What candidates are held against, and how many triggers are among the images that order the activations."""
    from repair.precision.mixed_precision import Bench

    options, subject = run.settings.repair.precision, run.subject
    few = max(1, options.images // ORDERED_BY)
    learned = images_of(run.triggers(range(1), Side.train))[: few // 2]
    search = torch.cat([_mutated(run, Side.train, few), *([learned] if len(learned) else [])])
    validate = subject.sides[Side.validate]
    bench = Bench(
        model,
        _asked(run, search),
        _asked(run, _mutated(run, Side.validate, options.images)),
        _asked(run, images_of(run.triggers(range(1), Side.validate))),
        folder,
        options.float_output,
        subject.source(model).interface,
        threads=None,
        groups_of_probe=(torch.arange(options.images) % max(1, len(validate))).numpy(),
    )
    return bench, len(learned)


def _asked(run: Run, images: Tensor) -> "Asked":
    from repair.precision.mixed_precision import Asked

    return Asked.of(run.oracle.original, images)


def _mutated(run: Run, side: Side, count: int) -> Tensor:
    """Images of a side that no model chose, made as those of the probe are."""
    seeds = run.subject.sides[side]
    if not len(seeds):
        raise InputError(f"repair.precision needs images of the {side.name} side, split.{side.name} leaves none")
    return torch.cat(list(ProbeSet(seeds.images, seeds.ids, count).chunks()))


def _told(run: Run, bench: "Bench", learned: int, decision: "Decision") -> dict[str, Any]:
    """`precision.json`: what was decided, and by which figures."""
    asked, bits = run.settings.repair.precision, decision.bits

    def told(step: "Step") -> dict[str, Any]:
        wide = set(step.tensors)
        return {
            "tensors": step.tensors,
            "grids": sum(set(group) <= wide for group in decision.groups),
            "bytes": step.bytes,
            "milliseconds": step.latency_ms,
            "divergence": step.divergence,
            "deviating": step.deviation,
            "differing": step.argmax,
            "repaired": step.repaired,
        }

    def each(steps: "Iterable[Step]") -> list[dict[str, Any]]:
        return [told(step) for step in steps]

    found: dict[str, Any] = {
        "activations": asked.activations,
        "choose": asked.choose if asked.activations == "chosen" else None,
        "taken": decision.taken,
        "tensors": bits.activations,
        "weights": bits.weights,
        "float_output": bits.float_output,
        "grids": len(decision.groups),
        "next_weight": decision.next_weight,
        "all_weights": decision.all_weights,
        "images": {
            "train": len(bench.search.images) - learned,
            "train_triggers": learned,
            "validate": len(bench.probe.images),
            "validate_triggers": len(bench.triggers.images),
        },
        "before": told(decision.before),
        "after": told(decision.after),
        "orders": {name: each(steps) for name, steps in decision.orders.items()},
    }
    plainly: dict[str, Any] = plain(found)
    return plainly
