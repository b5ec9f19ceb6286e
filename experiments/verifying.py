"""Verification of a round's triggers: asked again in a fresh process, under each of `verify.runtimes`."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch
from tqdm import tqdm

from dflare.errors import InputError
from dflare.search import Ending
from dflare.shards import read_endings
from experiments.config import Config
from experiments.environment import file_hash
from experiments.files import read_json, write_atomic
from experiments.fresh import Request
from experiments.opening import Source, answered_by
from experiments.report_schema import conform
from experiments.subject import Subject
from experiments.terminal import quiet
from repair.proof import metrics

FILE = "verification.json"

_MASKS = ("deviates", "tied", "agrees", "original_changed", "compressed_changed")


def verify(subject: Subject, settings: Config, model: Path | None, folder: Path, label: str) -> None:
    """Ask all triggers in `folder` again and write down in `verification.json` what came of it.

    `model` is the compressed model they were found against, None for a pair in memory. Runtimes that are there
    already are not asked again, unless the triggers, models, package versions or `verify.repeats` changed. Raises
    `InputError` for a model that cannot be opened or asked in the new process, and where that process dies.
    """
    asked, path = _asked(subject, model), folder / FILE
    known = conform(read_json(path), "Verification", str(path))["runtimes"] if path.exists() else {}
    facts = [settings.pair.name, *(source.facts() for source in asked), *_hashes(folder), settings.verify.repeats]
    wanted = {name: _head(asked, name, facts) for name in dict.fromkeys([*settings.verify.runtimes, *known])}
    entries = {name: entry for name, entry in known.items() if entry["fingerprint"] == wanted[name]["fingerprint"]}
    missing = [name for name in settings.verify.runtimes if name not in entries]
    if not missing:
        return
    found = int(read_endings(folder).which(Ending.deviated).sum())
    models, threads = [source.to_json() for source in asked], torch.get_num_threads()
    request = Request(str(folder), models, subject.name, missing, settings.verify.repeats, threads)
    for name, counts in _counted(request, found, label) if found else ((name, {}) for name in missing):
        entries[name] = {**wanted[name], **figures(counts, settings.verify.repeats)}
        ordered = {key: entries[key] for key in wanted if key in entries}
        write_atomic(path, json.dumps({"triggers": found, "runtimes": ordered}, indent=1) + "\n")


def figures(counts: Mapping[str, float], repeats: int) -> dict[str, Any]:
    """The figures of one runtime from its counts, as plain JSON; asked once, nothing is known of determinism."""
    asked = int(counts.get("asked", 0))
    shares = {name: metrics.rate(counts.get(name, 0), asked) for name in _MASKS}
    if repeats == 1:
        shares |= {"original_changed": metrics.NOTHING, "compressed_changed": metrics.NOTHING}
    changed = [name for name in ("original", "compressed") if shares[f"{name}_changed"].value]
    seconds = counts.get("seconds", 0)
    made: dict[str, Any] = metrics.plain(
        {"repeats": repeats, **shares, "nondeterministic": changed, "seconds": seconds}
    )
    return made


def _asked(subject: Subject, model: Path | None) -> list[Source]:
    """Original and compressed model as the fresh process opens them; none for a pair in memory."""
    return [subject.sources["original"], subject.source(model)] if subject.sources else []


def _head(asked: list[Source], runtime: str, facts: list[Any]) -> dict[str, Any]:
    """What answers under a runtime, and a fingerprint of all that the answers hang on."""
    said = [answered_by(source, runtime) for source in asked] or [f"torch {torch.__version__}"] * 2
    digest = hashlib.sha256(json.dumps([runtime, said, facts]).encode()).hexdigest()
    return {"original": said[0], "compressed": said[1], "fingerprint": digest}


def _hashes(folder: Path) -> list[str]:
    """Hashes of the triggers' files."""
    return [file_hash(path) for path in sorted(folder.glob("*.npz"))]


def _counted(request: Request, found: int, label: str) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Every runtime with the sum of its counts, as soon as all of its triggers are asked."""
    counts: Counter[str] = Counter()
    with (
        closing(_answers(request)) as answers,
        tqdm(total=found * len(request.runtimes), desc=label, unit="trigger", disable=quiet()) as bar,
    ):
        for answer in answers:
            runtime = answer.pop("runtime")
            counts.update(answer)
            bar.update(answer.get("asked", 0))
            if "seconds" in answer:
                if counts["asked"] != found:
                    raise InputError(f"expected {found} triggers in {request.folder}, {counts['asked']:.0f} were read")
                yield runtime, dict(counts)
                counts.clear()


def _answers(request: Request) -> Generator[dict[str, Any], None, None]:
    """What a new Python process answers to the request; it is gone when this ends, however it ends.

    It has a session of its own: an interrupt from the terminal reaches this process only, which then kills it. Should
    this process be killed, the other dies of its next answer, which nobody takes.
    """
    command = [sys.executable, "-P", "-m", "experiments.fresh"]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            encoding="utf-8",
            env=paths,
            start_new_session=True,
        ) as process,
    ):
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError), process.stdin:
                process.stdin.write(json.dumps(asdict(request)))
            for line in process.stdout:
                if not line.endswith("\n"):  # the process died as it wrote
                    break
                answer = json.loads(line)
                if "error" in answer:
                    raise InputError(answer["error"])
                yield answer
            if process.wait() != 0:
                raise InputError(_last_words(request, process.returncode, said))
        finally:
            process.kill()


def _last_words(request: Request, code: int, said: IO[str]) -> str:
    said.seek(0)
    lines = said.read().strip().splitlines() or ["it said nothing"]
    return (
        f"the process that verified the triggers in {request.folder} ended with code {code} before it was done: "
        f"{lines[-1]}"
    )
