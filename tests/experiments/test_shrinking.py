"""Limits and shrinking as settings of a search, on the closed-form pair of `kill_world`."""

from pathlib import Path

import pytest
import torch

from dflare.errors import InputError, OutOfTime
from dflare.seeds import Seeds, pixel_hash
from dflare.shards import read_endings, read_shrunk, read_triggers
from dflare.strategies import STRATEGIES
from dflare.triggers import Side
from experiments import shrinking
from experiments.config import Config
from experiments.searching import inherit_search, search_side
from experiments.subject import Subject
from tests.experiments.kill_world import Brightness


@pytest.fixture(scope="module")
def subject() -> Subject:
    images = torch.randint(0, 250, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sides = {side: Seeds(images[part], pixel_hash(images[part])) for side, part in zip(Side, PARTS, strict=True)}
    return Subject("toy", lambda: Brightness(8160), lambda: Brightness(8000), {}, sides, ("dark", "bright"))


PARTS = (slice(0, 10), slice(10, 20), slice(20, 40))


def settings(**search: object) -> Config:
    config = Config()
    for key, value in {"judge_seeds": 20, "max_queries": 40, "batch_size": 8, "strategy": "boundary", **search}.items():
        setattr(config.search, key, value)
    return config


def searched(subject: Subject, folder: Path, **search: object) -> Path:
    search_side(subject, settings(**search), None, folder, Side.judge, 0, "search")
    return folder


@pytest.mark.slow
def test_shrunk_triggers_deviate_nearer_to_their_seeds_and_are_counted_apart(subject, tmp_path):
    plain = read_triggers(searched(subject, tmp_path / "plain"))
    shrunk = read_triggers(searched(subject, tmp_path / "shrunk", shrink=True))
    assert plain is not None
    assert shrunk is not None
    assert shrunk.identities() == plain.identities()
    assert torch.equal(shrunk.queries, plain.queries)
    assert not plain.shrink_queries.any()
    assert shrunk.shrink_queries.all()
    assert shrunk.verify(subject.pair(None)).all()
    assert shrunk.outputs.deviates.all()
    assert (shrunk.distances["l_2"] <= plain.distances["l_2"]).all()
    assert shrunk.distances["l_2"].median() < 0.5 * plain.distances["l_2"].median()


@pytest.mark.slow
def test_shrinking_that_was_stopped_is_finished_by_the_next_run(subject, tmp_path, monkeypatch):
    expected = read_triggers(searched(subject, tmp_path / "whole", shrink=True, batch_size=4))
    calls, write = [], shrinking.write_shrunk

    def interrupted(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(shrinking, "write_shrunk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        searched(subject, tmp_path / "run", shrink=True, batch_size=4)
    some = read_shrunk(tmp_path / "run")
    assert some is not None
    assert len(some) == 8
    got = read_triggers(searched(subject, tmp_path / "run", shrink=True, batch_size=4))
    assert got is not None
    assert expected is not None
    assert got.identities() == expected.identities()
    assert torch.equal(got.images, expected.images)


@pytest.mark.slow
def test_an_inherited_search_keeps_its_shrunk_triggers(subject, tmp_path):
    folder = searched(subject, tmp_path / "first", shrink=True)
    inherit_search(folder, tmp_path / "second")
    first, second = read_triggers(folder), read_triggers(tmp_path / "second")
    assert first is not None
    assert second is not None
    assert torch.equal(first.images, second.images)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [name for name, found in STRATEGIES.items() if not found.gradients])
def test_no_trigger_of_any_strategy_leaves_the_limits(strategy, subject, tmp_path):
    limits = {"max_l_inf": 60 / 255, "max_l_2": 1.5, "min_ssim": 0.3}
    folder = searched(subject, tmp_path, strategy=strategy, shrink=True, **limits)
    assert len(read_endings(folder)) == 20
    for shrunk in (False, True):
        found = read_triggers(folder, shrunk=shrunk)
        if found is not None:
            assert shrinking.limits_of(settings(**limits).search).respected(found.seed_images, found.images).all()
    free = read_triggers(searched(subject, tmp_path / "free", strategy=strategy))
    assert free is not None
    assert not shrinking.limits_of(settings(**limits).search).respected(free.seed_images, free.images).all()


@pytest.mark.parametrize(("key", "value"), [("max_l_inf", 0.0), ("max_l_2", -1.0), ("min_ssim", 1.5)])
def test_limits_that_make_no_sense_are_refused_by_name(key, value):
    with pytest.raises(InputError, match=f"search.{key}"):
        shrinking.limits_of(settings(**{key: value}).search)


@pytest.mark.slow
def test_a_finished_search_that_shrinks_is_run_again_and_a_side_may_have_no_trigger(subject, tmp_path):
    folder = searched(subject, tmp_path, shrink=True)
    before = (folder / "index.jsonl").read_bytes()
    assert (searched(subject, tmp_path, shrink=True) / "index.jsonl").read_bytes() == before
    some = settings(shrink=True, max_queries=1, strategy="random", seeds=10)
    search_side(subject, some, None, folder, Side.train, 0, "search")
    found = read_triggers(folder)
    assert found is not None
    assert not len(found.side(Side.train))


@pytest.mark.slow
def test_a_deleted_file_of_shrunk_triggers_is_made_again_and_no_other_overwritten(subject, tmp_path):
    folder = searched(subject, tmp_path, shrink=True, batch_size=4)
    expected = (folder / "index.jsonl").read_bytes()
    (folder / "shrunk-0-0.npz").unlink()
    kept = {path.name: path.read_bytes() for path in folder.glob("shrunk-*.npz")}
    assert len(kept) > 1
    searched(subject, tmp_path, shrink=True, batch_size=4)
    assert (folder / "index.jsonl").read_bytes() == expected
    assert all((folder / name).read_bytes() == content for name, content in kept.items())


def test_seeds_that_time_left_over_are_not_taken_for_done_although_no_chain_was_in_flight(subject, tmp_path):
    short = {"max_queries": 1, "strategy": "random", "batch_size": 4, "max_seconds": 1e-9}
    with pytest.raises(OutOfTime, match="max_seconds"):
        searched(subject, tmp_path, **short)
    assert len(read_endings(tmp_path)) < 20
    searched(subject, tmp_path, **(short | {"max_seconds": None}))
    assert len(read_endings(tmp_path)) == 20


def test_copies_of_shards_are_not_read_twice(subject, tmp_path):
    folder = searched(subject, tmp_path)
    for name in ("triggers-0-0 (copy).npz", "triggers-0-0-backup.npz"):
        (folder / name).write_bytes((folder / "triggers-0-0.npz").read_bytes())
    assert len(read_endings(searched(subject, tmp_path))) == 20
