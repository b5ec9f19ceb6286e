"""Held-out triggers of another search strategy than the repair's: found once, kept, and judged by."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dflare.errors import InputError
from dflare.shards import read_endings, read_triggers
from dflare.triggers import Side
from experiments.report_schema import report_schema
from experiments.settings import load_config, other_strategy

OTHER = Path("round-00") / "triggers-other"


@pytest.mark.parametrize(
    ("strategy", "other", "expected"),
    [
        ("dflare", "auto", "boundary"),
        ("margin", "auto", "boundary"),
        ("boundary", "auto", "dflare"),
        ("boundary-walk", "auto", "dflare"),
        ("dflare", "random", "random"),
        ("dflare", None, None),
    ],
)
def test_the_other_strategy_is_of_another_kind(strategy: str, other: str | None, expected: str | None):
    assert other_strategy(strategy, other) == expected


def test_the_other_strategy_is_written_down_by_its_name():
    assert load_config([]).search.other_strategy == "boundary"
    assert load_config(["search.strategy=boundary"]).search.other_strategy == "dflare"
    assert load_config(["search.other_strategy=null"]).search.other_strategy is None


def test_the_same_strategy_twice_is_refused():
    with pytest.raises(
        InputError, match=r"search\.other_strategy must be another strategy than search\.strategy=random"
    ):
        load_config(["search.strategy=random", "search.other_strategy=random"])


def test_an_unknown_other_strategy_is_refused_with_the_right_ones(
    dflare: Callable[..., Any], toys: Any, tmp_path: Path
):
    answer = dflare("search", *toys.settings(tmp_path / "run", search__other_strategy="bondary"))
    assert answer.code == 2
    assert "search.other_strategy must be one of dflare, " in answer.err
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def searched(toys: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `dflare search` was run. Not to be changed: copy it."""
    from contextlib import redirect_stdout
    from io import StringIO

    from experiments.main import main

    folder = tmp_path_factory.mktemp("other") / "run"
    with redirect_stdout(StringIO()):
        assert main(["search", *toys.settings(folder, search__other_strategy="random")]) == 0
    return folder


def test_the_other_search_takes_the_judge_seeds_and_finds_other_triggers(searched: Path):
    own, other = (read_endings(searched / "round-00" / name) for name in ("triggers", "triggers-other"))
    assert sorted(other.seeds.tolist()) == sorted(own.side(Side.judge).seeds.tolist())
    assert set(other.sides.tolist()) == {int(Side.judge)}
    triggers = [read_triggers(searched / "round-00" / name) for name in ("triggers", "triggers-other")]
    assert triggers[0] is not None
    assert triggers[1] is not None
    images = [{image.numpy().tobytes() for image in found.side(Side.judge).images} for found in triggers]
    assert images[1]
    assert not images[0] & images[1]
    assert (searched / OTHER / "index.jsonl").is_file()


@pytest.mark.slow
def test_a_search_that_was_stopped_in_it_is_continued_to_the_same_end(
    searched: Path, dflare: Callable[..., Any], toys: Any, tmp_path: Path
):
    folder = Path(shutil.copytree(searched, tmp_path / "run"))
    settings = toys.settings(folder, search__other_strategy="random")
    for shard in (folder / OTHER).glob("*.npz"):
        shard.unlink()
    refused = dflare("repair", *settings)
    assert refused.code == 2
    assert "expected round 0's triggers" in refused.err
    assert dflare("search", *settings).code == 0
    one, two = (read_triggers(some / OTHER) for some in (folder, searched))
    assert one is not None
    assert two is not None
    assert one.images.equal(two.images)
    assert one.seeds.equal(two.seeds)


def test_another_other_strategy_needs_another_folder(
    searched: Path, dflare: Callable[..., Any], toys: Any, tmp_path: Path
):
    folder = Path(shutil.copytree(searched, tmp_path / "run"))
    answer = dflare("search", *toys.settings(folder, search__other_strategy="margin"))
    assert answer.code == 2
    assert "was made with search.other_strategy=random, now it is margin" in answer.err


@pytest.mark.slow
def test_repair_and_controls_are_judged_by_what_the_other_search_found(
    searched: Path, dflare: Callable[..., Any], toys: Any, tmp_path: Path
):
    folder = Path(shutil.copytree(searched, tmp_path / "run"))
    settings = toys.settings(folder, search__other_strategy="random", verify__runtimes="[default]")
    answer = dflare("loop", *settings, "gate.max_drawdown=1")
    assert answer.code == 0
    found = len(read_endings(folder / OTHER))
    (entry,) = (json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines())
    headline = json.loads((folder / "headline.json").read_text())
    for outcome in (entry, headline):
        figures = [outcome["repair"], outcome["placebo"]["repair"], outcome["noop"]["repair"]]
        assert {block["other_strategy"] for block in figures} == {"random"}
        assert len({block["generalization_other"]["n"] for block in figures}) == 1
        assert outcome["noop"]["repair"]["generalization_other"]["value"] == 0
        assert outcome["repair"]["generalization_other"]["value"] > 0
        assert outcome["search"]["other"]["seeds"] == found == 8
        assert "of another search against the placebo's" in outcome["beats_placebo_words"]
        assert 0 <= outcome["repair"]["probe_placebo_mcnemar_p"] <= 1
    report = json.loads((folder / "report.json").read_text())
    jsonschema.validate(report, report_schema())
    assert report["rounds"][0]["search"]["other_verification"]["runtimes"]["default"]["deviates"]["value"] == 1
    page = (folder / "report.md").read_text()
    assert "| held-out triggers of another search (random) |" in page
    assert "| round 0, judge, by another strategy |" in page
    assert "| round 0, held out by another strategy, default |" in page
    assert "probe images deviate, with the repair" in page


@pytest.mark.slow
def test_a_run_by_kinds_of_images_shows_them(dflare: Callable[..., Any], toys: Any, tmp_path: Path):
    """The repair and its placebo learn by the same groups, from a recipe by name."""
    folder = tmp_path / "run"
    assert dflare("loop", *toys.settings(folder, search__seeds=60, repair__recipe="clustered")).code == 0
    report = json.loads((folder / "report.json").read_text())
    jsonschema.validate(report, report_schema())
    clusters = report["rounds"][0]["clusters"]
    assert sum(cluster["count"] for cluster in clusters["clusters"]) == clusters["triggers"] >= 20
    seeds = {f"{seed:016x}" for seed in read_endings(folder / "round-00" / "triggers").side(Side.train).seeds.tolist()}
    for cluster in clusters["clusters"]:
        assert set(cluster["examples"]) <= seeds
        assert (folder / cluster["picture"]).read_bytes().startswith(b"\x89PNG")
        assert f"]({cluster['picture']})" in (folder / "report.md").read_text()
    for part in ("model", "placebo"):
        assert json.loads((folder / "round-00" / part / "training.json").read_text())["recipe"]["balance"] == "clusters"
