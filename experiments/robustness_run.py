"""The stages of a robustness repair: look for balls, repair, judge. What is done is kept in `round-00`."""

import io
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dflare.classifiers import ask
from dflare.errors import InputError
from experiments.array_files import look_into
from experiments.environment import file_hash
from experiments.files import read_json, write_atomic
from experiments.opening import Source
from experiments.robustness_config import RobustnessConfig, needed_draws
from experiments.robustness_inputs import Subject
from experiments.terminal import say
from repair.proof.intervals import rate
from repair.properties.ball_cases import JUDGING, METHODS, RESTARTS, Looked, look, student
from repair.properties.ball_statements import attacked, pooled_statement
from repair.properties.balls import Balls, margins, violated
from repair.properties.students import scores_of

PURPOSES = ("look", "repair", "attack", "statement", "verify")
"""What random numbers are drawn for, each from a stream of its own."""

CALM = 4
"""Calm balls for each one that is repaired, at most."""


@dataclass(frozen=True)
class RobustnessRun:
    """A run: what it works on, its settings, and the folder in which its stages leave what they did."""

    subject: Subject
    settings: RobustnessConfig
    folder: Path  # round-00 of the run folder

    def generator(self, purpose: str, index: int = 0) -> torch.Generator:
        """Random numbers for one of `PURPOSES`."""
        state = np.random.SeedSequence([self.settings.seed, PURPOSES.index(purpose), index]).generate_state(1, "u8")
        return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


@dataclass(frozen=True)
class Found:
    """Balls of both sides; `unseen` and `calm` are of the judge side."""

    looked: Looked  # of the repair side
    bad: Balls  # to repair
    unseen: Balls
    calm: Balls

    @property
    def stated(self) -> Balls:
        """What the statement is about: the balls to repair, or where none misbehaves those that were looked at."""
        return self.bad if len(self.bad) else self.looked.balls(self.bad.radius)[1]


def find(run: RobustnessRun) -> Found:
    """The balls in which the model misbehaves and those in which it does not, looked for once and kept."""
    asked, subject = run.settings.robustness, run.subject
    looked = []
    for index, (name, side) in enumerate((("repair", subject.repair), ("judge", subject.judge))):
        path = run.folder / f"looked-{name}.npz"
        if not path.exists():
            clean = min(asked.clean, max(1, len(side) // 4)) if name == "repair" else 0
            sizes = min(asked.candidates, len(side) - clean), clean
            say(f"attacking {sizes[0]} images of the {name} side")
            model, wanted = subject.source.open(), subject.wanted(side)
            slopes = student(subject.trainable)
            _save(look(slopes, model, side.images, wanted, sizes, asked.radius, run.generator("look", index)), path)
        looked.append(_load(path))
    bad, (unseen, calm) = looked[0].balls(asked.radius)[0], looked[1].balls(asked.radius)
    most = slice(0, asked.images)
    return Found(looked[0], bad.take(most), unseen.take(most), calm.take(slice(0, CALM * asked.images)))


def repair(run: RobustnessRun, found: Found, target: Path) -> Path:
    """The repaired model in a copy of its file, made once and opened again; `repair.json` says what it took."""
    asked, record, opened = run.settings.robustness, run.folder / "repair.json", run.subject.trainable
    if record.exists() and target.exists() and read_json(record)["sha256"] == file_hash(target):
        return target
    say(f"repairing {len(found.bad)} balls by {asked.method}")
    began, worked = time.perf_counter(), time.process_time()
    others = found.looked.others(asked.radius)
    done = METHODS[asked.method](opened, found.bad, others, asked.steps, run.generator("repair"))
    opened.write(done.weights, target)
    opened.check(target)
    took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - worked, "steps": done.steps}
    write_atomic(record, json.dumps({"method": asked.method, **took, "sha256": file_hash(target)}, indent=1) + "\n")
    return target


def judged(run: RobustnessRun, found: Found, name: str, path: Path) -> dict[str, Any]:
    """What a model's file answers, as plain figures with 95 % intervals (Wilson), kept in `judged-<name>.json`."""
    record, sha = run.folder / f"judged-{name}.json", file_hash(path)
    known = read_json(record) if record.exists() else {}
    if known.get("sha256") == sha:
        return dict(known)
    say(f"judging the model {name}")
    asked, source = run.settings.robustness, run.subject.source.at(path)
    model, slopes = source.open(), student(source.open_trainable())
    figures: dict[str, Any] = {"sha256": sha, "misbehaving": len(found.bad)}
    figures["centres"] = _share(~violated(scores_of(model, found.stated.centres), found.stated.wanted))
    for index, (kind, balls) in enumerate((("attacked", found.stated), ("unseen", found.unseen), ("calm", found.calm))):
        mask = attacked(slopes, model, balls, JUDGING, RESTARTS, run.generator("attack", index)) if len(balls) else None
        figures[kind] = _share(torch.zeros(0, dtype=torch.bool) if mask is None else mask)
    draws = asked.fresh or needed_draws(asked)
    figures["statement"] = pooled_statement(
        model, found.stated, draws, asked.delta, run.generator("statement")
    ).as_dict()
    before, after = (_right(run, one) for one in (run.subject.source, source))
    figures |= {"right": _share(after), "broken": _share(before & ~after), "fixed": _share(after & ~before)}
    write_atomic(record, json.dumps(figures, indent=1) + "\n")
    return figures


def _right(run: RobustnessRun, source: Source) -> Tensor:
    """Which images of the judge side a model answers as wanted, (n,) bool."""
    judge, answers = run.subject.judge, run.subject.answers
    wanted = judge.labels if answers is None else ask(answers, judge.images, "original").argmax(-1)
    assert wanted is not None
    return margins(ask(source.open(), judge.images, "model"), wanted) < 0


def _share(mask: Tensor) -> dict[str, Any]:
    return rate(int(mask.sum()), len(mask)).as_dict()


def _save(looked: Looked, path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: value.numpy() for name, value in vars(looked).items()})
    write_atomic(path, buffer.getvalue())


def _load(path: Path) -> Looked:
    """What `_save` wrote; raises `InputError` for a damaged file."""
    stored = {name: torch.from_numpy(one.read()) for name, one in look_into(path).items()}
    if {name: value.dtype for name, value in stored.items()} != {
        "images": torch.uint8,
        "wanted": torch.int64,
        "bad": torch.bool,
    }:
        raise InputError(f"expected the images of a run in {path}, got something else; remove the file")
    return Looked(stored["images"], stored["wanted"], stored["bad"])
