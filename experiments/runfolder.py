"""A run folder: the only interface between stages. Opened by one process at a time, for one configuration."""

import json
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from dflare.errors import InputError
from experiments.config import Config
from experiments.continuing import added, check_contents, warnings_of
from experiments.environment import environment
from experiments.files import append_line, parse_json, read_json, read_lines, write_atomic
from experiments.properties_config import PropertiesConfig
from experiments.robustness_config import RobustnessConfig
from experiments.rollback import check_decided
from experiments.settings import as_dict, read_yaml, to_yaml

if TYPE_CHECKING:
    from experiments.opening import Source

FREE = (
    "run_dir",
    "threads",
    "loop.rounds",
    "search.max_seconds",
    "search.batch_size",
    "pair.download",
    "data.root",
    "data.download",
    "properties.verifier",
    "properties.verifier_seconds",
    "properties.verifier_margin",
    "properties.export",
    "robustness.verifier",
    "robustness.verifier_balls",
    "robustness.verifier_seconds",
    "robustness.verifier_margin",
    "robustness.export",
)
"""Settings that may change between runs in one folder: they alter how long or where, not what is found."""

FREE_GROUPS = ("gate", "trainer", "verify", "estimate")

BOUND = ("trainer.precision",)
"""Of these groups what alters what a training comes to: a repair and its placebo compute alike."""

LEAVING = 60.0
"""Seconds within which workers leave whose leader is gone."""


class RunFolder:
    """Where everything of a run is; see DESIGN, section 6."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def round(self, number: int) -> Path:
        """Folder of one round."""
        return self.path / f"round-{number:02d}"

    def rounds(self) -> list[dict[str, Any]]:
        """The rounds that are finished, in order."""
        path = self.path / "rounds.jsonl"
        found = [parse_json(line, str(path)) for line in read_lines(path)] if path.exists() else []
        for number, line in enumerate(found, start=1):
            if not isinstance(line, dict) or not isinstance(line.get("rolled_back"), bool) or "repair" not in line:
                raise InputError(f"expected a finished round in line {number} of {path}, got something else")
        return found

    def add_round(self, line: str) -> None:
        """Append a finished round, fsynced."""
        append_line(self.path / "rounds.jsonl", line)


@contextmanager
def open_run(settings: Config | PropertiesConfig | RobustnessConfig) -> Iterator[RunFolder]:
    """The run folder of the settings, locked; made on the first run, compared with the settings afterwards.

    A folder in which nothing was found goes away again when the run fails, so that it does not bind the next try.
    Raises `InputError` when another process works in it, or when it holds results of other settings.
    """
    folder = Path(str(settings.run_dir))
    if folder.exists() and not folder.is_dir():
        raise InputError(f"run_dir must be a folder, got the file {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"run_dir={folder} cannot be made: {error.strerror}") from error
    known, lock = folder / "config.yaml", FileLock(folder / ".lock")
    if not known.exists() and any(not path.name.startswith((".lock", ".config.yaml.")) for path in folder.iterdir()):
        raise InputError(f"run_dir must be new or a run folder, got {folder}, which has files but no config.yaml")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"another process is working in {folder}; wait for it or choose another run_dir") from error
    try:
        _wait_for_workers(folder)
        if known.exists():
            _compare(known, settings)
            if isinstance(settings, Config) and (folder / "rounds.jsonl").exists():
                check_decided(folder, RunFolder(folder).rounds(), settings.gate.max_drawdown)
        for leftover in list(folder.rglob(".*.tmp*")):  # of a killed process
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        try:
            write_atomic(known, to_yaml(settings))
            yield RunFolder(folder)
        except BaseException:
            _forget(folder)
            raise
    finally:
        lock.release()


@contextmanager
def as_worker(folder: Path, rank: int) -> Iterator[None]:
    """Mark the folder as worked in by a worker that does not lead, lest it outlives its leader and meets a new one."""
    with FileLock(folder / f".lock-{rank}", timeout=0):
        yield


def _wait_for_workers(folder: Path) -> None:
    """Until the workers of a leader that was killed have left."""
    for path in folder.glob(".lock-*"):
        try:
            with FileLock(path, timeout=LEAVING):
                path.unlink()
        except Timeout as error:
            raise InputError(f"workers of a run that was stopped are still in {folder}; wait for them") from error


def write_environment(
    run: RunFolder,
    models: "Mapping[str, Path | Source]",
    images: dict[str, str],
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write `environment.json` on the first run; what a continued one runs on is added beside it.

    `images` are fingerprints of the three sides, `more` is written down beside what `environment` finds. Raises
    `InputError` when the run began with other models or images; another runtime is warned of on stderr.
    """
    path, now = run.path / "environment.json", {**environment(models), "images": images, **(more or {})}
    if not path.exists():
        write_atomic(path, _json(now))
        return
    known = read_json(path)
    check_contents(run.path, known, now)
    warnings = warnings_of(known, now)
    for text in warnings:
        print(f"dflare: warning: {text}", file=sys.stderr)
    write_atomic(path, _json(added(known, "continued", now, warnings)))


def check_same(folder: Path, models: "Mapping[str, Path | Source]", images: dict[str, str]) -> None:
    """Raise `InputError` when a worker has other models or images than the leader, who wrote `environment.json`.

    A worker that has another runtime says so, past what keeps workers silent, and adds it to that file.
    """
    path, now = folder / "environment.json", {**environment(models), "images": images}
    check_contents(folder, read_json(path), now)
    with FileLock(folder / ".lock.environment"):
        known = read_json(path)
        leader = known.get("continued", [known])[-1]
        warnings = warnings_of(leader, now, f"on {platform.node() or 'another node'}")
        if warnings and sys.__stderr__ is not None:
            print(*(f"dflare: warning: {text}" for text in warnings), sep="\n", file=sys.__stderr__, flush=True)
        if warnings:
            write_atomic(path, _json(added(known, "workers", now, warnings)))


def _forget(folder: Path) -> None:
    rounds = list(folder.glob("round-*"))
    if any(path.suffix == ".npz" for one in rounds for path in one.rglob("*")) or (folder / "estimate").exists():
        return
    for one in rounds:  # nothing has been found yet
        shutil.rmtree(one)
    for name in ("config.yaml", "environment.json", ".lock.environment", ".lock"):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _compare(known: Path, settings: Config | PropertiesConfig | RobustnessConfig) -> None:
    loaded: dict[Any, Any] = OmegaConf.to_container(read_yaml(known), resolve=False)  # type: ignore[assignment]
    for key, (before, now) in _differences(loaded, as_dict(settings)).items():
        if key in BOUND or (key not in FREE and key.split(".")[0] not in FREE_GROUPS):
            raise InputError(
                f"the run folder {known.parent} was made with {key}={before}, now it is {now}; "
                "choose another run_dir or the same settings"
            )


def _differences(before: dict[Any, Any], now: dict[Any, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for key in [*now, *(key for key in before if key not in now)]:
        one, two = before.get(key), now.get(key)
        if isinstance(one, dict) and isinstance(two, dict):
            found |= _differences(one, two, f"{prefix}{key}.")
        elif one != two:
            found[f"{prefix}{key}"] = (one, two)
    return found


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"
