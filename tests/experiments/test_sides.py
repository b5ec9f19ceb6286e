"""Who may see which images: what a repair learns from, stops by and is undone by is never of the judge side."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import experiments.loop
from dflare.triggers import Side, TriggerSet
from experiments.oracle import Oracle
from experiments.run import Run

STAGES = ("train_model", "localise_round", "cluster_round", "training_start", "_changes_on_validate")
"""What happens between a search and the figures: trainings with their placebos, choices, and the rollback."""


class JudgeSideError(AssertionError):
    """An image, a label or an answer of the judge side was asked for."""


class Locked(dict[Side, Any]):
    """What is known of each side; what is known of the judge side raises."""

    def __getitem__(self, side: Side) -> Any:
        if side is Side.judge:
            raise JudgeSideError
        return super().__getitem__(side)


class Nothing:
    """The probe set, which is made of judge images, where nobody may look."""

    def __getattr__(self, name: str) -> Any:
        raise JudgeSideError


@contextmanager
def judge_locked(oracle: Oracle) -> Iterator[None]:
    """Within it the oracle's judge side, its answers there and the probe set raise `JudgeSideError`."""
    subject, kept = oracle.subject, (oracle.subject.sides, oracle._clean, oracle.probe)
    object.__setattr__(subject, "sides", Locked(kept[0]))
    oracle._clean, oracle.probe = Locked(kept[1]), Nothing()  # type: ignore[assignment]
    try:
        yield
    finally:
        object.__setattr__(subject, "sides", kept[0])
        oracle._clean, oracle.probe = kept[1], kept[2]


def parts(value: Any) -> Iterator[Any]:
    """A value, or those in a tuple."""
    yield from value if isinstance(value, tuple) else (value,)


def watched(stage: Callable[..., Any], calls: list[str], judge: set[bytes]) -> Callable[..., Any]:
    """The stage with the judge side locked; triggers and images handed to it must not be of the judge side either."""

    def call(*arguments: Any, **named: Any) -> Any:
        values = [part for value in (*arguments, *named.values()) for part in parts(value)]
        for value in values:
            assert not (isinstance(value, TriggerSet) and bool((value.sides == int(Side.judge)).any()))
            assert not (isinstance(value, Tensor) and judge & {image.numpy().tobytes() for image in value})
        (oracle,) = {v.oracle if isinstance(v, Run) else v for v in values if isinstance(v, Run | Oracle)}
        calls.append(stage.__name__)
        with judge_locked(oracle):
            return stage(*arguments, **named)

    return call


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages as they were called, all of them watched."""
    made: list[str] = []
    judge: set[bytes] = set()
    search = Run.search

    def remember(run: Run, *arguments: Any, **named: Any) -> None:
        judge.update(image.numpy().tobytes() for image in run.subject.sides[Side.judge].images)
        search(run, *arguments, **named)
        begun = len(list(run.folder.path.glob("round-*/triggers")))
        found = run.triggers(range(begun), Side.judge)
        judge.update(image.numpy().tobytes() for image in (found.images if found is not None else torch.zeros(0)))

    monkeypatch.setattr(Run, "search", remember)
    for name in STAGES:
        monkeypatch.setattr(experiments.loop, name, watched(getattr(experiments.loop, name), made, judge))
    return made


@pytest.mark.slow
def test_no_judge_image_is_read_from_the_search_to_the_figures(
    calls: list[str], dflare: Callable[..., Any], toys: Any, tmp_path: Path
):
    """Two rounds, so that a later round's choices are watched too."""
    settings = toys.settings(tmp_path / "run", loop__rounds=2, search__seeds=40, repair__recipe="clustered")
    assert dflare("loop", *settings).code == 0
    assert set(calls) == set(STAGES)
    assert calls.count("train_model") >= 6  # repair, placebo and no-op of two rounds
    assert calls.count("_changes_on_validate") == 2


@pytest.mark.parametrize(
    "peek",
    [
        lambda oracle: oracle.clean(Side.judge),
        lambda oracle: oracle.clean_examples(Side.judge),
        lambda oracle: oracle.subject.sides[Side.judge].labels,
        lambda oracle: oracle.probe_scores,
        lambda oracle: oracle.probe.lengths(),
    ],
)
def test_who_looks_at_the_judge_side_is_caught(peek: Callable[[Oracle], Any], toys: Any, oracle: Oracle):
    """The wrong case."""
    oracle.clean(Side.judge)  # known already, and locked all the same
    with judge_locked(oracle), pytest.raises(JudgeSideError):
        peek(oracle)
    with judge_locked(oracle):
        assert len(oracle.clean(Side.validate))
    assert len(oracle.probe_scores) == 50


@pytest.fixture
def oracle(toys: Any, tmp_path: Path) -> Oracle:
    """What the toy original says."""
    from experiments.making import make_subject
    from experiments.settings import load_config

    settings = load_config(toys.settings(tmp_path))
    return Oracle(make_subject(settings, False, False), settings.probe.images)
