"""A repair and its placebo by any recipe: the same weights are free, the same places of the batches are the seeds'."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dflare.triggers import Side, TriggerSet
from experiments import repairing
from experiments.config import Config
from experiments.making import make_subject
from experiments.oracle import Oracle
from experiments.repairing import read_training, train_model
from experiments.searching import triggers_of
from experiments.settings import load_config
from repair.data import RepairData
from repair.opening import open_trainable


@pytest.fixture(scope="module")
def bench(finished: Path) -> tuple[Config, Oracle, Path, TriggerSet]:
    """Settings, oracle, starting model and train triggers of a finished toy run."""
    settings = load_config([str(finished / "config.yaml")])
    oracle = Oracle(make_subject(settings, progress=False), 10)
    found = triggers_of([finished / "round-00" / "triggers"], Side.train)
    assert found is not None
    return settings, oracle, oracle.subject.compressed_file(), found


class StoppedError(Exception):
    """Raised in place of a training."""


def batches(bench: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, images: torch.Tensor, **options: Any) -> Any:
    """The mixture that `train_model` would learn from."""
    settings, oracle, start, _ = bench
    seen: list[RepairData] = []

    def stop(trainable: Any, data: RepairData, *others: Any) -> None:
        seen.append(data)
        raise StoppedError

    monkeypatch.setattr(repairing, "fit_steps", stop)
    with pytest.raises(StoppedError):
        train_model(
            settings, oracle, start, folder, (images, images[:0]), seed=1, learning_rate=0.01, steps=3, **options
        )
    return seen[0].mixture


@pytest.mark.parametrize("balance", ["none", "pairs"])
def test_the_placebo_learns_the_seed_of_the_trigger_that_the_repair_learns(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, balance: str
):
    found = bench[3]
    (tmp_path / "own.yaml").write_text(f"balance: {balance}\n")
    monkeypatch.setattr(bench[0].repair, "recipe", str(tmp_path / "own.yaml"))
    both = [
        batches(bench, tmp_path / name, monkeypatch, images, found=found)
        for name, images in (("repair", found.images), ("placebo", found.seed_images))
    ]
    seed_of = {trigger.numpy().tobytes(): seed for trigger, seed in zip(found.images, found.seed_images, strict=True)}
    for number in range(4):
        repair, placebo = (mixture[number] for mixture in both)
        rows = repair.is_trigger
        shown = (repair.images[rows] * 255).round().to(torch.uint8)
        expected = torch.stack([seed_of[image.numpy().tobytes()] for image in shown])
        assert torch.equal(expected, (placebo.images[rows] * 255).round().to(torch.uint8))
        assert torch.equal(repair.images[~rows], placebo.images[~rows])
        assert torch.equal(repair.labels, placebo.labels)  # those of the seeds, for both


def test_labels_are_the_data_sets_and_without_the_triggers_the_originals(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _, oracle, _, found = bench
    side = oracle.subject.sides[Side.train]
    known = dict(zip(side.ids.tolist(), side.labels.tolist(), strict=True))
    given = batches(bench, tmp_path / "a", monkeypatch, found.images, found=found).triggers
    assert given.labels.tolist() == [known[seed] for seed in found.seeds.tolist()]
    assert batches(bench, tmp_path / "b", monkeypatch, found.images).triggers.labels is None


def test_triggers_from_elsewhere_are_refused(bench: Any, tmp_path: Path):
    settings, oracle, start, found = bench
    other = TriggerSet(**{**found.__dict__, "seeds": found.seeds + 1})
    with pytest.raises(ValueError, match="seed of the train side"):
        train_model(
            settings,
            oracle,
            start,
            tmp_path,
            (found.images, found.images),
            seed=1,
            learning_rate=0.1,
            steps=1,
            found=other,
        )


def test_the_placebo_may_move_what_the_repair_moved_and_the_file_keeps_the_rest(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings, oracle, start, found = bench
    (tmp_path / "own.yaml").write_text("free: responsible:1\nloss: margin\n")
    monkeypatch.setattr(settings.repair, "recipe", str(tmp_path / "own.yaml"))
    options: dict[str, Any] = {"seed": 1, "learning_rate": 0.01, "steps": 5, "found": found}
    nothing = found.images[:0]
    repaired = train_model(settings, oracle, start, tmp_path / "repair", (found.images, nothing), **options)
    training = read_training(tmp_path / "repair")
    placebo = train_model(
        settings, oracle, start, tmp_path / "placebo", (found.seed_images, nothing), free=training.free, **options
    )
    assert len(training.free) == 1
    assert read_training(tmp_path / "placebo").free == training.free
    assert training.recipe["loss"] == "margin"
    assert training.recipe["free"] == "responsible:1"
    before = dict(open_trainable(start).module.named_parameters())
    for path in (repaired, placebo):
        after = dict(open_trainable(path).module.named_parameters())
        moved = [n for n in before if before[n].detach().numpy().tobytes() != after[n].detach().numpy().tobytes()]
        assert moved == training.free


def test_a_training_of_an_older_version_is_still_read(tmp_path: Path):
    (tmp_path / "training.json").write_text(json.dumps({"steps": 3, "score": None, "seconds": 1.0, "triggers": 2}))
    assert read_training(tmp_path).free == []
