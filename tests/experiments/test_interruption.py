"""A run that is killed at any instant, or interrupted, and started again ends as one that never stopped."""

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dflare.models.exported import load_program
from dflare.shards import read_triggers

pytestmark = pytest.mark.slow

Start = Callable[..., subprocess.Popen[str]]

LONGER = {"loop__rounds": 2, "search__batch_size": 3, "repair__steps": 60, "repair__validate_every": 5}
"""Many small steps: shards of 3 chains, checkpoints every 5 steps."""


@pytest.fixture(scope="module")
def whole(toys: Any, tmp_path_factory: pytest.TempPathFactory, start: Start) -> Path:
    """The run that never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    process = start("loop", *toys.settings(folder, **LONGER))
    process.communicate(timeout=300)
    assert process.returncode in (0, 1)
    return folder


def count_files(folder: Path) -> int:
    return sum(1 for _ in folder.rglob("*"))


def wait_until(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    """Return as soon as it happened or the process has ended."""
    end = time.monotonic() + 300
    while process.poll() is None and not happened():
        assert time.monotonic() < end, "the run hangs"
        time.sleep(0.002)


def assert_same_outcome(folder: Path, whole: Path) -> None:
    """The same figures, triggers and weights, whatever happened on the way."""
    one, two = ([json.loads(line) for line in (f / "rounds.jsonl").read_text().splitlines()] for f in (folder, whole))
    headlines = [json.loads((f / "headline.json").read_text()) for f in (folder, whole)]
    assert lasting([*one, headlines[0]]) == lasting([*two, headlines[1]])
    for number in (0, 1):
        sets = [read_triggers(f / f"round-0{number}" / "triggers") for f in (folder, whole)]
        assert sets[0] is not None
        assert sets[1] is not None
        arrays = sets[1].arrays()
        assert all(np.array_equal(array, arrays[name]) for name, array in sets[0].arrays().items())
        for part in ("model", "placebo", "noop"):
            states = [load_program(f / f"round-0{number}" / part / "model.pt2").state_dict for f in (folder, whole)]
            assert all(torch.equal(weight, states[1][name]) for name, weight in states[0].items())


def lasting(value: Any) -> Any:
    """Figures without times."""
    if isinstance(value, dict):
        return {k: lasting(v) for k, v in value.items() if k not in ("seconds", "latency_before", "latency_after")}
    return [lasting(item) for item in value] if isinstance(value, list) else value


def test_a_run_killed_at_random_moments_ends_as_one_that_never_stopped(
    start: Start, toys: Any, whole: Path, tmp_path: Path
):
    folder, generator = tmp_path / "run", random.Random(0)
    settings = toys.settings(folder, **LONGER)
    moments = sorted(generator.randrange(2, count_files(whole)) for _ in range(5))
    killed = 0
    for moment in moments:
        process = start("loop", *settings)
        wait_until(process, lambda moment=moment: count_files(folder) >= moment)  # type: ignore[misc]
        time.sleep(generator.uniform(0, 0.05))
        process.kill()
        _, err = process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert "Traceback" not in err
    assert killed >= 3
    process = start("loop", *settings)
    _, err = process.communicate(timeout=300)
    assert (process.returncode in (0, 1), err) == (True, "")
    assert_same_outcome(folder, whole)
    assert list(folder.rglob(".*.tmp*")) == []


def test_an_interrupted_run_says_so_and_continues(start: Start, toys: Any, whole: Path, tmp_path: Path):
    settings = toys.settings(tmp_path / "run", **LONGER)
    for sign in ("triggers/triggers-0-2.npz", "model/checkpoints/best.ckpt", "after"):  # search, training, re-test
        process = start("loop", *settings)
        wait_until(process, lambda sign=sign: (tmp_path / "run" / "round-00" / sign).exists())  # type: ignore[misc]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
        assert (process.returncode, out) == (130, "")
        assert err == "dflare: interrupted; run the same command to continue\n"
        assert not (tmp_path / "run" / "rounds.jsonl").exists()
    process = start("loop", *settings)
    assert process.communicate(timeout=300)[1] == ""
    assert_same_outcome(tmp_path / "run", whole)


def test_an_interrupt_at_the_start_leaves_nothing_or_a_round_that_has_begun(start: Start, toys: Any, tmp_path: Path):
    process = start("loop", *toys.settings(tmp_path / "run", **LONGER))
    wait_until(process, lambda: (tmp_path / "run" / "config.yaml").exists())
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert err == "dflare: interrupted; run the same command to continue\n"
    assert not (tmp_path / "run").exists() or (tmp_path / "run" / "round-00").exists()
