"""Limits and shrinking as settings of a search, on the closed-form pair of `kill_world`."""

from pathlib import Path

import pytest
import torch

from dflare.errors import InputError
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
