"""A search shared by several processes finds what one process finds, whoever dies and whoever comes back."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from dflare.errors import InputError
from dflare.shards import read_endings, read_triggers
from experiments.config import TrainerSettings
from experiments.runfolder import open_run
from experiments.settings import load_config
from experiments.workers import Place, find_place, may_lead

Start = Callable[..., subprocess.Popen[str]]

LONG = {
    "search__strategy": "random",
    "search__seeds": 72,
    "search__validate_seeds": 24,
    "search__judge_seeds": 24,
    "search__max_queries": 120,
    "search__batch_size": 2,
}
"""Many small batches, so that the processes are met at work."""

VARIABLES = (
    *("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK", "NODE_RANK"),
    *("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_PROCID", "SLURM_JOB_NAME"),
)

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}
SLURM = {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "3", "SLURM_JOB_NAME": "search"}


@pytest.fixture
def around(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Puts these variables of a launcher, and no others, into the environment."""

    def put(variables: dict[str, str]) -> None:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "place"),
    [
        ({}, 1, 1, Place()),
        ({}, 2, 1, Place(0, 2, 2)),
        ({"LOCAL_RANK": "1"}, 2, 1, Place(1, 2, 2)),
        ({"NODE_RANK": "1"}, 2, 2, Place(2, 4, 2)),
        (TORCHRUN, 1, 1, Place(3, 4, 2, started=True)),
        (TORCHRUN, 2, 2, Place(3, 4, 2, started=True)),
        (SLURM, 2, 2, Place(3, 4, 2, started=True)),
        (SLURM, 1, 1, Place()),  # four runs side by side, none of which shares its search
        (SLURM | {"SLURM_JOB_NAME": "bash"}, 2, 1, Place(0, 2, 2)),  # a shell in a SLURM job
    ],
)
def test_a_process_knows_its_place(variables, devices, nodes, place, around):
    around(variables)
    assert find_place(TrainerSettings(devices=devices, num_nodes=nodes)) == place


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (TORCHRUN, "torchrun started 2 workers on this node and 4 in all, but trainer.devices=3"),
        (SLURM, "SLURM runs 4 tasks, 2 on a node, but trainer.devices=3"),
        ({"NODE_RANK": "7"}, "must name one of 3 workers, got number 21"),
    ],
)
def test_settings_that_contradict_the_launcher_are_refused(variables, words, around):
    around(variables)
    with pytest.raises(InputError, match=words):
        find_place(TrainerSettings(devices=3))


def test_only_the_first_worker_speaks_before_the_settings_are_known(around):
    around({})
    assert may_lead()
    around({"LOCAL_RANK": "0", "RANK": "0"})
    assert may_lead()
    for variables in (TORCHRUN, SLURM, {"NODE_RANK": "1"}, {"LOCAL_RANK": "1"}):
        around(variables)
        assert not may_lead()


def test_one_worker_a_node_starts_the_others():
    assert [Place(rank, 4, 2).starts_others for rank in range(4)] == [True, False, True, False]
    assert not Place(0, 4, 2, started=True).starts_others
    assert not Place().starts_others
    assert Place(0, 2, 2).owns_all
    assert not Place(0, 4, 2).owns_all


def test_a_run_waits_for_the_workers_of_a_killed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("experiments.runfolder.LEAVING", 0.1)
    settings = load_config([f"run_dir={tmp_path / 'run'}"])
    with open_run(settings) as run:
        run.round(0).mkdir()
    with FileLock(run.path / ".lock-1"), pytest.raises(InputError, match="are still in"), open_run(settings):
        pass
    with open_run(settings):
        assert not (run.path / ".lock-1").exists()


@pytest.fixture(scope="module")
def alone(toys: Any, tmp_path_factory: pytest.TempPathFactory, start: Start) -> Path:
    """The folder of a search by one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert ended(start("search", *toys.settings(folder, **LONG)))[0] == 0
    return folder


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code and output; fails where the process hangs."""
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def others_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that this one has started and that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has just ended
            continue
        if int(parent) == process.pid and state != "Z":
            found.append(int(path.parent.name))
    return found


def until(happened: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    end = time.monotonic() + 240
    while not happened() and (process is None or process.poll() is None):
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.01)


def searched(folder: Path, rank: int) -> Callable[[], bool]:
    """Whether a worker has begun to write."""
    return lambda: any((folder / "round-00" / "triggers").glob(f"triggers-{rank}-*.npz"))


def assert_same_search(folder: Path, alone: Path) -> None:
    """Every seed once, and bit by bit what one process found."""
    one, other = (f / "round-00" / "triggers" for f in (folder, alone))
    endings, expected = read_endings(one), read_endings(other)
    for name in ("seeds", "sides", "endings", "queries", "ties", "unconfirmed"):
        assert np.array_equal(getattr(endings, name), getattr(expected, name)), name
    found, triggers = read_triggers(one), read_triggers(other)
    assert found is not None
    assert triggers is not None
    for name, array in triggers.arrays().items():
        assert np.array_equal(found.arrays()[name], array), name
    assert (one / "index.jsonl").read_text() == (other / "index.jsonl").read_text()


@pytest.mark.slow
def test_two_processes_find_what_one_finds(start: Start, toys: Any, alone: Path, tmp_path: Path):
    process = start("search", *toys.settings(tmp_path / "run", **LONG, trainer__devices=2))
    code, out, err = ended(process)
    assert (code, err) == (0, "")
    assert out.count("judge:") == 1
    assert searched(tmp_path / "run", 0)()
    assert searched(tmp_path / "run", 1)()
    assert_same_search(tmp_path / "run", alone)


@pytest.mark.slow
def test_a_run_goes_on_with_other_numbers_of_processes_after_one_was_killed(
    start: Start, toys: Any, alone: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    process = start("search", *toys.settings(folder, **LONG, trainer__devices=3))
    until(searched(folder, 1), process)
    (other, *_) = others_of(process)
    os.kill(other, signal.SIGKILL)
    code, out, err = ended(process)
    assert (code, out) == (130, "")
    assert "run the same command to continue" in err
    assert "Traceback" not in err
    process = start("search", *toys.settings(folder, **LONG, trainer__devices=2))
    until(lambda: len(read_endings(folder / "round-00" / "triggers")) > 60, process)
    others = others_of(process)
    process.kill()  # the leader: nobody is left to tell the others, which must not go on
    process.communicate()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in others))
    code, _, err = ended(start("search", *toys.settings(folder, **LONG)))
    assert (code, err) == (0, "")
    assert_same_search(folder, alone)


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_and_the_next_run_continues(start: Start, toys: Any, alone: Path, tmp_path: Path):
    folder = tmp_path / "run"
    settings = toys.settings(folder, **LONG, trainer__devices=2)
    process = start("search", *settings)
    until(searched(folder, 1), process)
    others = others_of(process)
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "", "dflare: interrupted; run the same command to continue\n")
    assert not any(Path(f"/proc/{pid}").exists() for pid in others)
    assert ended(start("search", *settings))[0] == 0
    assert_same_search(folder, alone)


@pytest.mark.slow
def test_bad_input_is_said_once(start: Start, toys: Any, tmp_path: Path):
    settings = toys.settings(tmp_path / "run", trainer__devices=2, data__root=tmp_path / "none")
    code, out, err = ended(start("search", *settings))
    assert (code, out) == (2, "")
    assert err == f"dflare: error: expected a folder of images at {tmp_path / 'none'} (data.root), found none\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_torchrun_starts_the_processes_as_well(toys: Any, alone: Path, tmp_path: Path):
    pytest.importorskip("torch.distributed.run")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "experiments.main"]
    process = subprocess.Popen(
        [*torchrun, "search", *toys.settings(tmp_path / "run", **LONG)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    code, out, err = ended(process)
    assert code == 0, err
    assert out.count("judge:") == 1
    assert searched(tmp_path / "run", 1)()
    assert_same_search(tmp_path / "run", alone)


@pytest.mark.slow
def test_tasks_of_slurm_are_workers(start: Start, toys: Any, alone: Path, tmp_path: Path):
    from lightning_fabric.plugins.environments.lightning import find_free_network_port

    settings = toys.settings(tmp_path / "run", **LONG, trainer__devices=2)
    shared = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_JOB_NAME": "search"}
    shared |= {"SLURM_NODEID": "0", "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": str(find_free_network_port())}
    tasks = [start("search", *settings, **shared, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)) for rank in range(2)]
    (code, out, err), other = (ended(task) for task in tasks)
    assert (code, err) == (0, "")
    assert out.count("judge:") == 1
    assert other == (0, "", "")
    assert_same_search(tmp_path / "run", alone)


@pytest.mark.slow
def test_a_loop_of_two_processes_repairs_on_one_and_ends_as_a_loop_of_one(
    start: Start, toys: Any, finished: Path, tmp_path: Path
):
    process = start("loop", *toys.settings(tmp_path / "run", loop__rounds=2, trainer__devices=2))
    code, _, err = ended(process)
    assert (code, err) == (0, "")
    for number in (0, 1):
        for part in ("triggers", "after"):
            paths = [f / f"round-0{number}" / part for f in (tmp_path / "run", finished)]
            assert list(paths[0].glob("triggers-1-*.npz"))
            found, expected = (read_triggers(path) for path in paths)
            assert found is not None
            assert expected is not None
            assert np.array_equal(found.images, expected.images)
