"""A folder of results that is written while it may be killed at any moment."""

import gc
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dflare.classifiers import ModelPair
from dflare.errors import InputError
from dflare.search import Ended, Ending, Search
from dflare.seeds import Seeds
from dflare.shards import ENDINGS, Shards, read_endings, read_triggers, shard_side, write_index
from dflare.strategies import make_kernel
from dflare.triggers import Side


class Clock:
    """A clock that stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def seeds(noise_seeds) -> Seeds:
    return noise_seeds(30, high=250)


@pytest.fixture(scope="module")
def searched(toy_pair) -> Callable[..., Iterator[Ended]]:
    def run(seeds: Seeds, **options: Any) -> Iterator[Ended]:
        return Search(make_kernel("random"), toy_pair(), toy_pair(), 0, 15, 8, **options).run([seeds])

    return run


@pytest.fixture(scope="module")
def whole(searched, seeds) -> list[Ended]:
    """The search, uninterrupted."""
    return list(searched(seeds))


def open_shards(folder: Path, rank: int = 0, largest: int = 256, clock: Clock | None = None) -> Shards:
    return Shards(folder, rank, largest, clock or Clock())


def contents(folder: Path) -> dict[str, bytes]:
    """Everything a reader of the folder gets."""
    endings, found = read_endings(folder), read_triggers(folder)
    columns = {name: value.numpy().tobytes() for name, value in vars(endings).items()}
    return columns | {name: array.tobytes() for name, array in (found.arrays() if found else {}).items()}


def written(folder: Path, whole: list[Ended]) -> Path:
    shards = open_shards(folder)
    for ended in whole:
        shards.add(Side.train, ended)
    shards.flush()
    return folder


def test_what_was_added_is_read_back_ordered_by_side_and_seed(tmp_path, whole, seeds):
    shards = open_shards(tmp_path, largest=5)
    for ended in whole:
        shards.add(Side.validate, ended)
    shards.flush()
    read = read_endings(tmp_path)
    assert len(read) == 30
    assert read.seeds.tolist() == sorted(seeds.ids.tolist())
    assert read.sides.tolist() == [int(Side.validate)] * 30
    expected = {
        seed: (ended.ending, queries, ties)
        for ended in whole
        for seed, queries, ties in zip(
            *(getattr(ended.chains, n).tolist() for n in ("seed", "queries", "ties")), strict=True
        )
    }
    ways = [ENDINGS[ending] for ending in read.endings.tolist()]
    assert list(zip(ways, read.queries.tolist(), read.ties.tolist(), strict=True)) == [
        expected[seed] for seed in read.seeds.tolist()
    ]
    found = read_triggers(tmp_path)
    assert found is not None
    assert torch.equal(found.seeds, read.seeds[read.which(Ending.deviated)])
    assert torch.equal(found.queries, read.queries[read.which(Ending.deviated)])


@pytest.mark.parametrize("stop", [0, 1, 4, 9])
def test_a_search_killed_at_any_moment_and_continued_ends_with_the_same_result(tmp_path, searched, whole, seeds, stop):
    expected = contents(written(tmp_path / "whole", whole))
    folder = tmp_path / "killed"
    shards, running = open_shards(folder, largest=4), searched(seeds)
    for _ in range(stop):
        shards.add(Side.train, next(running))
    running.close()  # without a flush: what waited is lost
    (folder / ".triggers-0-7.tmp").write_bytes(b"half a shard")
    for _ in range(2):  # the second time nothing is left to do
        shards, done = open_shards(folder, largest=4), read_endings(folder).seeds
        assert not list(folder.glob("*.tmp"))
        left = seeds.take(~torch.isin(seeds.ids, done))
        for ended in searched(left):
            shards.add(Side.train, ended)
        shards.flush()
        assert contents(folder) == expected
    assert len(read_endings(folder).seeds.unique()) == 30


def test_another_order_and_other_shards_make_the_same_folder(tmp_path, searched, whole, seeds):
    expected = contents(written(tmp_path / "whole", whole))
    parts = [open_shards(tmp_path / "parts", rank, largest=3) for rank in range(2)]
    for rank, shards in enumerate(parts):
        for ended in searched(seeds.take(torch.arange(30).flip(0) % 2 == rank)):
            shards.add(Side.train, ended)
    for shards in parts:
        shards.flush()
    assert contents(tmp_path / "parts") == expected


def test_a_rank_clears_away_its_own_leftovers_only(tmp_path):
    for name in (".triggers-1-0.tmp", ".triggers-10-0.tmp", ".triggers-2-0.tmp"):
        (tmp_path / name).write_bytes(b"")
    open_shards(tmp_path, rank=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".triggers-10-0.tmp", ".triggers-2-0.tmp"]


def test_chains_that_ran_out_of_time_are_left_for_the_continued_run(tmp_path, searched, seeds):
    shards = open_shards(tmp_path)
    endings = list(searched(seeds, out_of_time=lambda: True))
    assert endings[-1].ending is Ending.timed_out
    shards.add(Side.train, endings[-1])
    shards.flush()
    assert list(tmp_path.iterdir()) == []
    assert len(read_endings(tmp_path)) == 0
    assert read_triggers(tmp_path) is None


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_shard_is_written_when_a_batch_is_full_or_a_second_has_passed(tmp_path, whole):
    clock, running = Clock(), iter(whole)
    shards = open_shards(tmp_path, largest=10, clock=clock)
    shards.add(Side.train, next(running))
    assert names(tmp_path) == []
    clock.now = 0.9
    shards.add(Side.train, next(running))
    assert names(tmp_path) == []
    clock.now = 1.1
    shards.add(Side.train, next(running))
    assert names(tmp_path) == ["triggers-0-0.npz"]
    waiting = 0
    while waiting < 10:
        assert names(tmp_path) == ["triggers-0-0.npz"]
        ended = next(running)
        shards.add(Side.train, ended)
        waiting += len(ended.chains)
    assert names(tmp_path) == ["triggers-0-0.npz", "triggers-0-1.npz"]


def test_a_shard_is_about_one_side_only(tmp_path, whole):
    shards = open_shards(tmp_path)
    for side, ended in zip((Side.train, Side.train, Side.judge, Side.validate), whole, strict=False):
        shards.add(side, ended)
    shards.flush()
    sides = [shard_side(path) for path in sorted(tmp_path.glob("*.npz"))]
    assert sides == [Side.train, Side.judge, Side.validate]
    counts = [len(read_endings(tmp_path).side(side)) for side in Side]
    assert counts == [sum(len(e.chains) for e in whole[:2]), len(whole[3].chains), len(whole[2].chains)]


def test_more_than_ten_shards_are_numbered_on(tmp_path, whole):
    for ended in whole:
        shards = open_shards(tmp_path, largest=1)
        shards.add(Side.train, ended)
    numbers = {int(path.stem.split("-")[2]) for path in tmp_path.glob("*.npz")}
    assert len(numbers) > 10
    assert numbers == set(range(len(numbers)))


def test_no_pickle_is_written(tmp_path, whole):
    written(tmp_path, whole)
    with np.load(tmp_path / "triggers-0-0.npz", allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


@pytest.mark.parametrize("kind", ["cut off", "empty", "other arrays"])
def test_a_damaged_shard_is_refused_by_name_and_not_left_open(tmp_path, whole, kind):
    path = written(tmp_path, whole) / "triggers-0-0.npz"
    content = path.read_bytes()
    path.write_bytes({"cut off": content[: len(content) // 2]}.get(kind, b""))
    if kind == "other arrays":
        np.savez(path, a=np.zeros(3))
    with warnings.catch_warnings(record=True) as leaks:
        warnings.simplefilter("always", ResourceWarning)
        for read in (read_endings, read_triggers, write_index, lambda folder: shard_side(path)):
            with pytest.raises(InputError, match=r"triggers-0-0\.npz"):
                read(tmp_path)
        gc.collect()
    assert leaks == []


def test_a_folder_that_is_not_there_is_named(tmp_path):
    for read in (read_endings, read_triggers):
        with pytest.raises(InputError, match=r"expected a folder of search results at .*gone, found none"):
            read(tmp_path / "gone")


def test_the_index_has_one_readable_line_a_trigger(tmp_path, whole):
    written(tmp_path, whole)
    write_index(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text(encoding="utf-8").splitlines()]
    found = read_triggers(tmp_path)
    assert found is not None
    assert len(lines) == len(found) > 3
    for row, line in enumerate(lines):
        assert set(line) == {
            "seed",
            "side",
            "original",
            "compressed",
            "queries",
            "shrink_queries",
            "path",
            "l_inf",
            "l_2",
            "ssim",
        }
        assert int(line["seed"], 16) == found.seeds[row]
        assert len(line["seed"]) == 16
        assert (line["side"], line["original"], line["compressed"]) == (
            "train",
            0,
            1,
        )  # only the compressed says bright
        assert line["queries"] == found.queries[row]
        assert line["path"] == found.path.lists()[row].tolist()
        apart = (found.images[row].double() - found.seed_images[row].double()) / 255
        assert abs(line["l_inf"] - float(apart.abs().max())) < 1e-6
        assert abs(line["l_2"] - float(apart.square().sum().sqrt())) < 1e-6
    assert not list(tmp_path.glob("*.tmp"))


def test_the_index_of_a_folder_without_triggers_is_empty(tmp_path):
    write_index(tmp_path)
    assert (tmp_path / "index.jsonl").read_bytes() == b""


def test_chains_that_were_not_confirmed_are_counted_in_the_folder(tmp_path, noise_seeds, toy_pair):
    pair = ModelPair(toy_pair().original, lambda images: toy_pair().original(images).flip(-1))
    same = ModelPair(toy_pair().original, toy_pair().original)
    shards = open_shards(tmp_path)
    for ended in Search(make_kernel("random"), pair, same, 0, 5, 4).run([noise_seeds(4)]):
        shards.add(Side.train, ended)
    shards.flush()
    assert read_endings(tmp_path).unconfirmed.tolist() == [6] * 4
