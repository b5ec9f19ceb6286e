"""The stream of seeds from disk."""

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
def test_the_peak_rises_with_what_is_in_use() -> None:
    now = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    before = memory.peak()
    block = np.ones(before - now + 32 * 2**20, np.uint8)
    assert memory.peak() > before >= now
    assert block.all()
