"""Fifty interrupts and kills at random moments: nothing is lost but the batch in flight, and nothing is there twice."""

import multiprocessing
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest

from dflare.shards import read_endings, read_triggers
from tests.experiments import kill_world

pytestmark = pytest.mark.slow

STOPS = 50


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    """Starts processes in no time: they are forked from a clean server that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.experiments.kill_world"])
    return context


@pytest.mark.parametrize("strategy", ["dflare", "boundary"])
def test_a_search_stopped_at_random_moments_ends_as_one_that_never_stopped(strategy, processes, tmp_path: Path):
    def start(folder: Path) -> multiprocessing.Process:
        process = processes.Process(target=kill_world.search, args=(folder, strategy))
        process.start()
        return process

    whole = tmp_path / "whole"
    start(whole).join(60)
    expected, found = read_endings(whole), read_triggers(whole)
    assert found is not None
    assert len(expected) == kill_world.SEEDS
    generator, stops, unfinished = random.Random(strategy), 0, 0
    for number in range(1000):
        folder = tmp_path / f"run-{number}"
        while stops < STOPS:
            process = start(folder)
            process.join(generator.uniform(0, 0.6))
            if process.is_alive():
                os.kill(process.pid, generator.choice([signal.SIGINT, signal.SIGKILL]))
                process.join(60)
                stops += 1
            assert process.exitcode is not None
            done = read_endings(folder) if folder.exists() else None
            if done is not None:
                assert len(done.seeds.unique()) == len(done), "a seed is there twice"
                unfinished += 0 < len(done) < kill_world.SEEDS
                if len(done) == kill_world.SEEDS:
                    break
        last = start(folder)
        last.join(60)
        assert last.exitcode == 0
        again, triggers = read_endings(folder), read_triggers(folder)
        assert triggers is not None
        for name in ("seeds", "sides", "endings", "queries", "ties", "unconfirmed"):
            assert np.array_equal(getattr(again, name), getattr(expected, name)), name
        for name, array in found.arrays().items():
            assert np.array_equal(triggers.arrays()[name], array), name
        assert (folder / "index.jsonl").read_text() == (whole / "index.jsonl").read_text()
        if stops >= STOPS:
            break
    assert unfinished > STOPS / 4, "the stops must hit searches that are under way"
