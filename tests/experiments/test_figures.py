"""The figures and controls of a finished run, worked out again from its files: who was judged, and on what."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dflare.classifiers import ask
from dflare.models.exported import load_program
from dflare.models.opening import open_classifier
from dflare.shards import read_triggers
from dflare.triggers import Side, TriggerSet
from experiments.config import Config
from experiments.making import make_subject
from experiments.oracle import Oracle
from experiments.repairing import read_training, train_model
from experiments.searching import triggers_of
from experiments.settings import load_config
from experiments.trial import share_of
from repair.proof.probe import ProbeSet


@pytest.fixture(scope="module")
def settings(finished: Path) -> Config:
    return load_config([str(finished / "config.yaml")])


@pytest.fixture(scope="module")
def oracle(settings: Config) -> Oracle:
    return Oracle(make_subject(settings, progress=False), 10)


def entries(folder: Path) -> list[dict[str, Any]]:
    """The rounds and, last, the headline."""
    lines = (folder / "rounds.jsonl").read_text().splitlines()
    return [json.loads(text) for text in (*lines, (folder / "headline.json").read_text())]


def models(folder: Path, handed_in: Path) -> list[tuple[Path, Path, Path]]:
    """Before, after, and after the placebo: of each round and, last, of the headline."""
    first, second = (folder / f"round-0{number}" for number in (0, 1))
    file = "model.pt2"
    return [
        (handed_in, first / "model" / file, first / "placebo" / file),
        (first / "model" / file, second / "model" / file, second / "placebo" / file),
        (handed_in, second / "model" / file, folder / "headline" / "placebo-01" / file),
    ]


def learnt(folder: Path, number: int) -> TriggerSet:
    """The train triggers of all rounds up to one."""
    found = triggers_of([folder / f"round-0{k}" / "triggers" for k in range(number + 1)], Side.train)
    assert found is not None
    return found


def deviates(oracle: Oracle, model: Path, images: torch.Tensor) -> np.ndarray:
    """Whether the two models' sets of top classes are disjoint, (n,) bool, each image asked alone."""
    tops = []
    for classifier in (oracle.original, open_classifier(model)):
        scores = torch.cat([ask(classifier, image[None]) for image in images])
        tops.append(scores == scores.amax(-1, keepdim=True))
    return ~(tops[0] & tops[1]).any(-1).numpy()


@pytest.mark.parametrize(
    ("place", "start", "number"),
    [
        ("round-00/placebo", None, 0),
        ("round-01/placebo", "round-00/model", 1),
        ("headline/placebo-01", "round-00/placebo", 1),
    ],
)
def test_a_placebo_is_the_repair_of_that_round_on_the_seeds_of_its_triggers(
    finished: Path, settings: Config, oracle: Oracle, tmp_path: Path, place: str, start: str | None, number: int
):
    """Seeds of the same trainings, from the right model; and the repair's own triggers make another one."""
    begin = oracle.subject.compressed_file() if start is None else finished / start / "model.pt2"
    found, training = learnt(finished, number), read_training(finished / f"round-0{number}" / "model")
    made = {
        name: train_model(
            settings,
            oracle,
            begin,
            tmp_path / name,
            (images, torch.zeros(0)),
            seed=settings.seed * 10_007 + number,
            learning_rate=settings.repair.learning_rate,
            steps=training.steps,
            found=found,
            free=training.free,
        )
        for name, images in (("seeds", found.seed_images), ("triggers", found.images))
    }
    control = load_program(finished / place / "model.pt2").state_dict
    seeds, triggers = (load_program(path).state_dict for path in made.values())
    assert all(torch.equal(weight, seeds[name]) for name, weight in control.items())
    assert any(not torch.equal(weight, triggers[name]) for name, weight in control.items())


def test_shares_of_repaired_triggers_are_those_of_the_files(finished: Path, oracle: Oracle):
    """Efficacy: all train triggers so far; generalization: the judge side's of round 0. Repair and placebo alike."""
    held_out = read_triggers(finished / "round-00" / "triggers")
    assert held_out is not None
    held_out = held_out.side(Side.judge)
    for number, entry, (_, *judged) in zip((0, 1, 1), entries(finished), models(finished, Path()), strict=True):
        for figures, model in zip((entry["repair"], entry["placebo"]["repair"]), judged, strict=True):
            for key, triggers in (("efficacy", learnt(finished, number)), ("generalization", held_out)):
                repaired = ~deviates(oracle, model, triggers.images)
                assert (figures[key]["value"], figures[key]["n"]) == (pytest.approx(repaired.mean()), len(triggers))


@pytest.mark.slow
def test_shares_of_clean_and_probe_images_are_those_of_the_judge_side(finished: Path, settings: Config, oracle: Oracle):
    """Drawdown, what was fixed, and the probe before and after: of the model and of its placebo."""
    side = oracle.subject.sides[Side.judge]
    probe = torch.cat(list(ProbeSet(side.images, side.ids, settings.probe.images).chunks()))
    for entry, (before, *judged) in zip(
        entries(finished), models(finished, oracle.subject.compressed_file()), strict=True
    ):
        clean, mutated = (deviates(oracle, before, images) for images in (side.images, probe))
        for figures, model in zip((entry["repair"], entry["placebo"]["repair"]), judged, strict=True):
            now, after = (deviates(oracle, model, images) for images in (side.images, probe))
            shares = {
                "drawdown": (now & ~clean).mean(),
                "fixed": (clean & ~now).mean(),
                "probe_before": mutated.mean(),
                "probe_after": after.mean(),
            }
            assert {key: figures[key]["value"] for key in shares} == pytest.approx(shares)


def test_triggers_of_one_seed_found_in_two_rounds_are_no_two_observations(finished: Path):
    """A hundred seeds, each found again in the second round: the interval is that of a hundred, or little wider."""
    found = learnt(finished, 0).take(torch.zeros(100, dtype=torch.int64))
    once = TriggerSet(**{**found.__dict__, "seeds": torch.arange(100)})
    twice = once.take(torch.arange(200) % 100)
    agrees = np.arange(100) % 4 == 0
    one, two, wrong = (
        share_of(np.tile(agrees, len(triggers) // 100), triggers)
        for triggers in (once, twice, TriggerSet(**{**twice.__dict__, "seeds": torch.arange(200)}))
    )
    assert (one.value, one.n, two.value, two.n) == (0.25, 100, 0.25, 200)
    assert two.low == pytest.approx(one.low, abs=0.001)
    assert two.high == pytest.approx(one.high, abs=0.001)
    assert wrong.high < two.high - 0.02  # the wrong case: two hundred seeds
