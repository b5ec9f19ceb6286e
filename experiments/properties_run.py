"""The stages of `dflare properties`: draw samples, repair, judge. What is done is kept in `round-00` and not redone."""

import io
import json
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dflare.errors import InputError
from experiments.array_files import look_into
from experiments.environment import file_hash
from experiments.files import read_json, write_atomic
from experiments.properties_config import PropertiesConfig, fresh_samples
from experiments.properties_inputs import Subject
from experiments.terminal import say
from repair.properties.claims import draw_claim, join_samples, state_each
from repair.properties.judging import DECISIONS, Judges, judge
from repair.properties.methods import METHODS, Task
from repair.properties.networks import run_onnx
from repair.properties.sampling import Samples

DOMAIN_DRAWS = 20_000
"""Fresh inputs of the domain on which the networks' decisions are compared: 1 % of them is known to 0.14 points."""

SIDES = ("train", "judge")
"""Samples that a repair is given, and samples that no repair has seen."""

PURPOSES = (*SIDES, "anywhere", "domain", "statement", "repair", "own", "verify")
"""What random numbers are drawn for, each from a stream of its own."""


@dataclass(frozen=True)
class PropertyRun:
    """A run: what it works on, its settings, and the folder in which its stages leave what they did."""

    subject: Subject
    settings: PropertiesConfig
    folder: Path  # round-00 of the run folder

    def generator(self, purpose: str, index: int = 0) -> torch.Generator:
        """Random numbers for one of `PURPOSES`."""
        return torch.Generator().manual_seed(self.seed(purpose, index))

    def seed(self, purpose: str, index: int = 0) -> int:
        """A seed in [0, 2^63) of the run's seed, a purpose and a number."""
        state = np.random.SeedSequence([self.settings.seed, PURPOSES.index(purpose), index]).generate_state(1, "u8")
        return int(state[0] >> np.uint64(1))


@dataclass(frozen=True)
class Drawn:
    """Counterexamples and safe inputs, float32 (n, inputs): to repair with, and to judge with."""

    train: tuple[Tensor, Tensor]
    judge: tuple[Tensor, Tensor]


def draw(run: PropertyRun) -> Drawn:
    """The samples of both sides, drawn once and kept; one's own take the place of those to repair with.

    Each claim gives its part of them. What was found is summed up in `samples.json`.
    """
    own, sides = run.subject.own, {}
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for side in SIDES:
        if side == "train" and own[0] is not None and own[1] is not None:
            sides[side] = (own[0][:0], own[1][:0])
            continue
        drawn = [_kept_samples(run, side, index) for index in range(len(run.subject.claims))]
        sides[side] = join_samples([one for one, _ in drawn], run.subject.wanted, run.subject.opened.network)
        found[side] = [{**_summary(one), "seconds": took} for one, took in drawn]
    bad, safe = (
        drawn if mine is None else _some(run, mine, index)
        for index, (drawn, mine) in enumerate(zip(sides["train"], own, strict=True))
    )
    counts = {"train": [len(bad), len(safe)], "judge": [len(some) for some in sides["judge"]]}
    summary = {**counts, "own": [mine is not None for mine in own], "drawn": found}
    write_atomic(run.folder / "samples.json", json.dumps(summary, indent=1) + "\n")
    return Drawn((bad, safe), sides["judge"])


def repair(run: PropertyRun, drawn: Drawn, method: str, target: Path) -> Path:
    """The repaired network in a copy of its file, made once; `<method>.json` says how long it took. Returns `target`.

    Raises `InputError` where a method that compares with safe inputs has none.
    """
    record = run.folder / f"{method}.json"
    if record.exists() and target.exists() and kept(record, "sha256")["sha256"] == file_hash(target):
        return target
    subject, asked = run.subject, run.settings.properties
    if not len(drawn.train[1]) and method not in ("hinge", "plain"):
        raise InputError(
            f"properties.method={method} needs safe inputs of {subject.wanted.name}, none was found; use hinge"
        )
    say(f"repairing with {method}")
    anywhere = drawn.train[1][:0]
    if subject.domain is not None:
        anywhere = subject.domain.sample(asked.samples, run.generator("anywhere"))
    task = Task(subject.opened.network, subject.wanted, *drawn.train, anywhere, DECISIONS[asked.output])
    began, worked = time.perf_counter(), time.process_time()
    weights = METHODS[method](task, run.generator("repair"))
    took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - worked}
    subject.opened.write(weights, target)
    write_atomic(record, json.dumps({"method": method, **took, "sha256": file_hash(target)}, indent=1) + "\n")
    return target


def judged(run: PropertyRun, drawn: Drawn | None, name: str, network: Path) -> dict[str, Any]:
    """What ONNX Runtime answers for a network's file, as plain figures, kept in `judged-<name>.json`.

    Without samples there are only the statements.
    """
    path, sha = run.folder / f"judged-{name}.json", file_hash(network)
    if path.exists() and (known := kept(path, "sha256", "statements"))["sha256"] == sha:
        return known
    say(f"judging the network {name} on {fresh_samples(run.settings.properties)} fresh samples")
    subject, asked = run.subject, run.settings.properties
    before, after = (partial(run_onnx, file) for file in (subject.opened.path, network))
    figures: dict[str, Any] = {"sha256": sha}
    if drawn is not None:
        domain = drawn.judge[1][:0]
        if subject.domain is not None:
            domain = subject.domain.sample(DOMAIN_DRAWS, run.generator("domain"))
        judges = Judges(drawn.train[0], *drawn.judge, domain)
        figures |= asdict(judge(before, after, subject.wanted, judges, DECISIONS[asked.output]))
    statements = state_each(after, subject.claims, fresh_samples(asked), asked.delta, run.seed("statement"))
    figures["statements"] = [
        {"property": claim.name, **one.as_dict()} for claim, one in zip(subject.claims, statements, strict=True)
    ]
    write_atomic(path, json.dumps(figures, indent=1) + "\n")
    return figures


def kept(path: Path, *keys: str) -> dict[str, Any]:
    """The content of a JSON file of a stage; raises `InputError` for a damaged file and for one without these keys."""
    content = read_json(path)
    if not isinstance(content, dict) or not set(keys) <= set(content):
        raise InputError(f"{path} must hold {' and '.join(keys)} as the run wrote them; remove the file and run again")
    return content


def _kept_samples(run: PropertyRun, side: str, index: int) -> tuple[Samples, float]:
    """The samples of a claim and the seconds that they took, from the file that keeps them or drawn now."""
    path, claims = run.folder / f"{side}-{index + 1}.npz", run.subject.claims
    if not path.exists():
        what = "to repair with" if side == "train" else "to judge with"
        say(f"drawing counterexamples of {claims[index].name} {what} ({index + 1} of {len(claims)})")
        n, began = -(-run.settings.properties.samples // len(claims)), time.perf_counter()
        drawn = draw_claim(run.subject.opened.network, claims[index], n, run.generator(side, index))
        _save(drawn, time.perf_counter() - began, path)
    return _load(path, claims[index].inputs)


def _save(drawn: Samples, seconds: float, path: Path) -> None:
    arrays: dict[str, Any] = {"counterexamples": drawn.counterexamples.numpy(), "safe": drawn.safe.numpy()}
    arrays |= {name: np.array([value]) for name, value in {**_summary(drawn), "seconds": seconds}.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomic(path, buffer.getvalue())


def _load(path: Path, inputs: int) -> tuple[Samples, float]:
    """What `_save` wrote of so many inputs; raises `InputError` for a damaged file."""
    stored = {name: one.read() for name, one in look_into(path).items()}
    try:
        bad, safe = (torch.from_numpy(stored[name].astype(np.float32)) for name in ("counterexamples", "safe"))
        numbers = [stored[name].item() for name in ("draws", "hits", "share", "method", "seconds")]
    except (KeyError, ValueError) as error:
        raise InputError(f"expected the samples of a run in {path}, got something else; remove the file") from error
    if any(some.ndim != 2 or some.shape[1] != inputs or not some.isfinite().all() for some in (bad, safe)):
        raise InputError(f"expected finite inputs (n, {inputs}) in {path}, got something else; remove the file")
    return Samples(bad, safe, numbers[0], numbers[1], numbers[2], numbers[3]), numbers[4]


def _some(run: PropertyRun, own: Tensor, index: int) -> Tensor:
    """As many of one's own inputs as are asked for, in random order; `index` 0 are counterexamples, 1 safe ones."""
    order = torch.randperm(len(own), generator=run.generator("own", index))
    return own[order[: run.settings.properties.samples]]


def _summary(drawn: Samples) -> dict[str, Any]:
    return {"draws": drawn.draws, "hits": drawn.hits, "share": drawn.share, "method": drawn.method}
