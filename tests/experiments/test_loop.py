"""The whole loop on a toy pair: what a run folder holds, what a round builds on, and what undoes it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image

from dflare.classifiers import ModelPair
from dflare.models.exported import load_program
from dflare.models.opening import open_classifier
from dflare.shards import read_endings, read_triggers
from dflare.triggers import Side
from experiments.data import assign_sides, load_data
from experiments.report_schema import report_schema
from experiments.settings import load_config
from repair.fit import Fitted
from repair.trainable import Trainable

PASSING = ("seconds", "latency_before", "latency_after")
"""Figures that are different in every run."""


def rounds(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def lasting(value: Any) -> Any:
    """Figures without times."""
    if isinstance(value, dict):
        return {key: lasting(item) for key, item in value.items() if key not in PASSING}
    return [lasting(item) for item in value] if isinstance(value, list) else value


def weights(file: Path) -> dict[str, torch.Tensor]:
    return dict(load_program(file).state_dict)


def assert_same_weights(one: Path, two: Path) -> None:
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The finished run of two rounds, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_run_folder_holds_what_the_design_names(finished: Path):
    expected = ["config.yaml", "environment.json", "rounds.jsonl", "headline.json", "report.json", "report.md"]
    expected += [
        f"round-0{number}/triggers/{name}" for number in (0, 1) for name in ("index.jsonl", "triggers-0-0.npz")
    ]
    expected += [f"round-0{number}/{part}/model.pt2" for number in (0, 1) for part in ("model", "placebo", "noop")]
    assert [name for name in expected if not (finished / name).is_file()] == []
    assert list(finished.glob("tensorboard/round-00/events.out.tfevents.*"))
    assert len(rounds(finished)) == 2
    unfinished = [path for path in finished.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]
    assert [path.name for path in unfinished] in ([], [".lock"])


def test_the_configuration_of_a_run_runs_it_again(toys: Any, finished: Path, dflare: Callable[..., Any], copy: Path):
    settings = toys.settings(finished, loop__rounds=2, verify__runtimes="[default]")
    assert load_config([str(finished / "config.yaml")]) == load_config(settings)
    before = (copy / "rounds.jsonl").read_bytes()
    assert dflare("loop", str(copy / "config.yaml"), f"run_dir={copy}").code == 0
    assert (copy / "rounds.jsonl").read_bytes() == before


def test_the_environment_names_versions_and_the_models(toys: Any, finished: Path):
    found = json.loads((finished / "environment.json").read_text())
    assert found["packages"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert found["models"]["compressed"]["bytes"] == toys.model("pruned").stat().st_size
    assert set(found["images"]) == {"train", "validate", "judge"}


def test_the_report_keeps_to_its_schema(finished: Path):
    report = json.loads((finished / "report.json").read_text())
    jsonschema.validate(report, report_schema())
    assert report["gate"]["passed"] is True
    assert [found["round"] for found in report["rounds"]] == [0, 1]
    assert "# " in (finished / "report.md").read_text()
    for path in (finished / "pictures").glob("*.png"):
        Image.open(path).verify()


def test_every_trigger_is_one_for_freshly_opened_models_and_stands_in_the_index(toys: Any, finished: Path):
    for number, model in enumerate([toys.model("pruned"), finished / "round-00" / "model" / "model.pt2"]):
        folder = finished / f"round-0{number}" / "triggers"
        triggers = read_triggers(folder)
        assert triggers is not None
        pair = ModelPair(open_classifier(toys.model("original")), open_classifier(model))
        assert bool(triggers.verify(pair).all())
        lines = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
        assert [int(line["seed"], 16) for line in lines] == triggers.seeds.tolist()
        assert {line["side"] for line in lines} == {"train", "validate", "judge"}


def test_no_seed_is_on_two_sides(toys: Any, finished: Path):
    sides = assign_sides(load_data("imagefolder", str(toys.images)), (0.6, 0.2, 0.2))
    for number in (0, 1):
        endings = read_endings(finished / f"round-0{number}" / "triggers")
        for side, seeds in zip(Side, sides, strict=True):
            count = {Side.train: 12, Side.validate: 6, Side.judge: 8}[side]
            assert sorted(endings.side(side).seeds.tolist()) == sorted(seeds.ids[:count].tolist())


def test_the_repaired_model_keeps_its_zeros_and_the_rest_moved(toys: Any, finished: Path):
    before = weights(toys.model("pruned"))["weight"]
    for number in (0, 1):
        after = weights(finished / f"round-0{number}" / "model" / "model.pt2")["weight"]
        assert bool((after[before == 0] == 0).all())
        assert bool((after[before != 0] != before[before != 0]).any())
    assert 0.7 < float((before == 0).float().mean()) < 0.9


def test_the_repaired_model_is_asked_like_the_one_that_came_in(toys: Any, finished: Path):
    images = torch.linspace(0, 1, 5 * 192).view(5, 3, 8, 8)
    repaired = open_classifier(finished / "round-01" / "model" / "model.pt2")
    assert repaired(images).shape == open_classifier(toys.model("pruned"))(images).shape == (5, 3)


def test_a_round_learns_the_triggers_of_all_rounds(finished: Path):
    first, second = rounds(finished)
    found = [entry["search"]["train"]["found"] for entry in (first, second)]
    assert first["repair"]["training_triggers"] == found[0] > 0
    assert second["repair"]["training_triggers"] == sum(found) > found[0]
    assert first["repair"]["earlier"] is None or first["repair"]["earlier"]["value"] is None
    assert second["repair"]["earlier"]["n"] == first["search"]["before"]["found"]
    assert second["repair"]["generalization"]["n"] == first["search"]["before"]["found"]


def test_a_round_begins_with_the_search_that_judged_the_one_before(finished: Path):
    first, second = rounds(finished)
    assert second["search"]["before"] == first["search"]["after"]
    assert second["repair"]["probe_before"] == first["repair"]["probe_after"]
    assert second["accuracy"]["before"] == first["accuracy"]["after"]


def test_the_no_op_changes_nothing(toys: Any, finished: Path):
    for number, entry in enumerate(rounds(finished)):
        noop = entry["noop"]
        assert noop["search"]["after"] == entry["search"]["before"]
        assert noop["search"]["queries_ratio"]["value"] == 1
        assert noop["repair"]["drawdown"]["value"] == noop["repair"]["fixed"]["value"] == 0
        assert noop["repair"]["probe_after"] == entry["repair"]["probe_before"]
        assert noop["repair"]["generalization_new"]["value"] == 0
        assert noop["accuracy"]["after"] == entry["accuracy"]["before"]
        before = toys.model("pruned") if number == 0 else finished / "round-00" / "model" / "model.pt2"
        assert_same_weights(finished / f"round-0{number}" / "noop" / "model.pt2", before)
    assert rounds(finished)[0]["noop"]["repair"]["efficacy"]["value"] == 0


def test_the_placebo_takes_as_many_steps_on_as_many_images(finished: Path):
    for entry in rounds(finished):
        folder = finished / f"round-0{entry['round']}"
        repair, placebo = (json.loads((folder / part / "training.json").read_text()) for part in ("model", "placebo"))
        assert (placebo["steps"], placebo["triggers"]) == (repair["steps"], repair["triggers"])
        assert placebo["steps"] == entry["repair"]["steps"] > 0


def test_the_headline_goes_from_the_model_as_handed_in_to_the_last(finished: Path):
    headline, (first, last) = json.loads((finished / "headline.json").read_text()), rounds(finished)
    assert headline["search"]["before"] == first["search"]["before"]
    assert headline["search"]["after"] == last["search"]["after"]
    assert headline["repair"]["generalization"] == last["repair"]["generalization"]
    assert headline["accuracy"]["before"] == first["accuracy"]["before"]
    assert headline["cost"]["bytes_before"] == first["cost"]["bytes_before"]


def test_the_repair_repairs(finished: Path):
    headline = json.loads((finished / "headline.json").read_text())
    assert headline["repair"]["generalization"]["value"] > 0
    assert headline["repair"]["probe_after"]["value"] < headline["repair"]["probe_before"]["value"]
    assert headline["repair"]["net"]["value"] > 0


@pytest.mark.slow
def test_the_verbs_one_by_one_come_to_the_same_as_the_loop(
    toys: Any, finished: Path, dflare: Callable[..., Any], tmp_path: Path
):
    settings = toys.settings(tmp_path / "run")
    found = dflare("search", *settings)
    assert found.code == 0
    assert "of 12 seeds" in found.out
    repaired = dflare("repair", *settings)
    assert repaired.code == 0
    assert f"model: {tmp_path / 'run' / 'round-00' / 'model' / 'model.pt2'}" in repaired.out
    assert dflare("repair", *settings) == repaired  # done once
    tested = dflare("retest", *settings)
    assert tested.code == 0
    assert lasting(rounds(tmp_path / "run")) == lasting(rounds(finished)[:1])
    assert_same_weights(*(folder / "round-00" / "model" / "model.pt2" for folder in (tmp_path / "run", finished)))
    assert dflare("loop", *settings).out == tested.out
    assert dflare("retest", *settings).code == 2  # there is nothing new to judge


def test_a_retest_that_was_stopped_before_its_headline_is_finished(dflare: Callable[..., Any], toys: Any, copy: Path):
    before = (copy / "headline.json").read_bytes()
    (copy / "headline.json").unlink()
    assert dflare("retest", *toys.settings(copy, loop__rounds=2)).code == 0
    assert (copy / "headline.json").read_bytes() == before
    assert len(rounds(copy)) == 2


@pytest.mark.slow
def test_more_rounds_continue_a_finished_run(dflare: Callable[..., Any], toys: Any, finished: Path, tmp_path: Path):
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    line = (folder / "rounds.jsonl").read_text().splitlines(keepends=True)[0]
    (folder / "rounds.jsonl").write_text(line)
    shutil.rmtree(folder / "round-01")
    (folder / "headline.json").unlink()
    assert dflare("loop", *toys.settings(folder, loop__rounds=2)).code == 0
    assert lasting(rounds(folder)) == lasting(rounds(finished))


@pytest.mark.slow
def test_a_round_that_breaks_too_much_is_rolled_back(dflare: Callable[..., Any], toys: Any, tmp_path: Path):
    folder = tmp_path / "run"
    destructive = {"repair__learning_rate": 10, "repair__replay": 0, "gate__max_drawdown": 0}
    answer = dflare("loop", *toys.settings(folder, loop__rounds=2, repair__patience=1, **destructive))
    first, second = rounds(folder)
    assert (first["rolled_back"], second["rolled_back"]) == (True, True)
    assert first["repair"]["validate"]["drawdown"]["value"] > 0
    assert second["search"]["before"] == first["search"]["before"]  # the model before, the same draws
    assert second["repair"]["probe_before"] == first["repair"]["probe_before"]
    assert_same_weights(folder / "round-01" / "noop" / "model.pt2", toys.model("pruned"))
    headline = json.loads((folder / "headline.json").read_text())
    assert headline["rolled_back"] is True
    assert headline["search"]["after"] == headline["search"]["before"]
    assert headline["repair"]["drawdown"]["value"] == 0
    assert answer.code == 1
    assert "Nothing was repaired" in answer.out


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["0", "null"])
def test_a_repair_that_ruins_the_model_is_a_round_like_any_other(
    limit: str, dflare: Callable[..., Any], toys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def ruin(trainable: Trainable, *_: Any) -> Fitted:  # the best class becomes the worst; twice is none
        return Fitted({name: -weight.detach() for name, weight in trainable.module.named_parameters()}, 1, 0.0)

    monkeypatch.setattr("experiments.repairing.fit", ruin)
    code = dflare("loop", *toys.settings(tmp_path, loop__rounds=2, gate__max_drawdown=limit)).code
    assert code == (1 if limit == "0" else 0)  # of which nothing was kept
    first, second = rounds(tmp_path)
    assert first["search"]["after"]["already"] == first["search"]["after"]["seeds"] == 8
    assert first["search"]["queries_ratio"]["value"] is None
    assert first["rolled_back"] is (limit == "0")
    assert second["search"]["before"] == first["search"]["before" if limit == "0" else "after"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"repair__validate_every": 1000},  # more than there are steps
        {"repair__steps": 15},  # no multiple of the validations
        {"repair__replay": 1},  # no triggers in any batch
        {"search__max_queries": 1, "search__mutations": "[gaussian_noise]"},  # hardly any trigger is found
    ],
    ids=lambda changes: "-".join(changes),
)
def test_odd_numbers_are_run(changes: dict[str, Any], dflare: Callable[..., Any], toys: Any, tmp_path: Path):
    assert dflare("search", *toys.settings(tmp_path, **changes)).code == 0
    assert dflare("repair", *toys.settings(tmp_path, **changes)).code == 0


@pytest.mark.slow
def test_a_model_exported_for_one_image_at_a_time_is_repaired(dflare: Callable[..., Any], toys: Any, tmp_path: Path):
    module = load_program(toys.model("pruned")).module()
    program = torch.export.export(module, (torch.zeros(1, 3, 8, 8),))
    torch.export.save(program, tmp_path / "single.pt2")
    settings = toys.settings(tmp_path / "run", pair__compressed=tmp_path / "single.pt2")
    assert dflare("search", *settings).code == 0
    assert dflare("repair", *settings).code == 0
    repaired = open_classifier(tmp_path / "run" / "round-00" / "model" / "model.pt2")
    assert repaired(torch.zeros(5, 3, 8, 8)).shape == (5, 3)


@pytest.mark.slow
def test_two_runs_of_one_configuration_are_the_same(
    dflare: Callable[..., Any], toys: Any, finished: Path, tmp_path: Path
):
    settings = toys.settings(tmp_path / "run", loop__rounds=2, search__batch_size=3)
    assert dflare("loop", *settings).code == 0
    assert lasting(rounds(tmp_path / "run")) == lasting(rounds(finished))
    for number in (0, 1):
        folders = [folder / f"round-0{number}" for folder in (tmp_path / "run", finished)]
        assert_same_weights(*(folder / "model" / "model.pt2" for folder in folders))
        assert_same_weights(*(folder / "placebo" / "model.pt2" for folder in folders))
        one, two = (read_triggers(folder / "triggers") for folder in folders)
        assert one is not None
        assert two is not None
        assert all(np.array_equal(array, two.arrays()[name]) for name, array in one.arrays().items())


@pytest.mark.slow
def test_another_seed_finds_other_triggers(dflare: Callable[..., Any], toys: Any, finished: Path, tmp_path: Path):
    assert dflare("search", *toys.settings(tmp_path / "run", seed=1)).code == 0
    one, two = (read_triggers(folder / "round-00" / "triggers") for folder in (tmp_path / "run", finished))
    assert one is not None
    assert two is not None
    assert one.images.shape != two.images.shape or not torch.equal(one.images, two.images)
