"""The stream of seeds from disk."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import memory


def test_the_file_holds_the_seeds_that_are_read_back_in_chunks(tmp_path: Path) -> None:
    path = tmp_path / "seeds.raw"
    memory.write_seeds(path, memory.CHUNK + 10)
    chunks = list(memory.read_seeds(path))
    assert [len(chunk) for chunk in chunks] == [memory.CHUNK, 10]
    images = torch.cat([chunk.images for chunk in chunks])
    assert (images.numpy() == np.fromfile(path, np.uint8).reshape(-1, *memory.SHAPE)).all()
    assert len(torch.cat([chunk.ids for chunk in chunks]).unique()) == memory.CHUNK + 10


def test_every_seed_of_the_stream_ends(tmp_path: Path) -> None:
    path = tmp_path / "seeds.raw"
    memory.write_seeds(path, 300)
    threads = torch.get_num_threads()
    try:
        figures = memory.stream(path, "random", max_queries=5, batch_size=64)
    finally:
        torch.set_num_threads(threads)
    assert figures["seeds"] == 300
    assert set(figures["endings"]) <= {"already", "deviated", "exhausted"}
    assert figures["peak"] > 10 * 2**20
    assert 0 < figures["full_share"] <= 1


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's record of the process")
@pytest.mark.slow
def test_the_peak_rises_with_what_is_in_use() -> None:
    code = "import memory, numpy; before = memory.peak(); block = numpy.ones(2**26); print(before, memory.peak())"
    folder = Path(memory.__file__).parent  # in a process of its own, which has no memory to use again
    said = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout
    before, after = map(int, said.split())
    assert 2**28 < after - before < 2**30
