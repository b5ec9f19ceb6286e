"""A run that goes on under another runtime, from the command line to the report."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.environment import environment
from experiments.opening import Source


@pytest.fixture
def stopped(finished: Path, tmp_path: Path) -> Path:
    """A run that was stopped just before its headline, which `retest` and `loop` then write."""
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    (folder / "headline.json").unlink()
    return folder


@pytest.fixture
def elsewhere(stopped: Path) -> Path:
    """The run whose compressed model was answered by an older torch."""
    path = stopped / "environment.json"
    found = json.loads(path.read_text())
    found["models"]["compressed"]["runtime"] = "torch 1.0"
    path.write_text(json.dumps(found))
    return stopped


@pytest.mark.parametrize("verb", ["retest", "loop"])
def test_a_run_continued_under_another_runtime_warns_and_reports_it(
    verb: str, dflare: Callable[..., Any], elsewhere: Path
):
    answer = dflare(verb, str(elsewhere / "config.yaml"), f"run_dir={elsewhere}")
    assert answer.code == 0
    (line,) = answer.err.splitlines()
    assert line.startswith("dflare: warning: another runtime than at ")
    assert "the compressed model was answered by torch 1.0, now by torch " in line
    assert "Warning: another runtime" in answer.out
    report = json.loads((elsewhere / "report.json").read_text())
    assert [f"dflare: warning: {text}" for text in report["warnings"]] == [line]
    assert report["models"]["compressed"]["runtime"] == "torch 1.0"  # as the run began
    assert "## Models and runtimes" in (elsewhere / "report.md").read_text()
    again = dflare("report", str(elsewhere))
    assert (again.code, again.err, again.out) == (0, "", answer.out)


def test_a_run_continued_where_it_was_begun_warns_of_nothing(dflare: Callable[..., Any], stopped: Path):
    before = (stopped / "environment.json").read_bytes()
    answer = dflare("retest", str(stopped / "config.yaml"), f"run_dir={stopped}")
    assert (answer.code, answer.err) == (0, "")
    assert (stopped / "environment.json").read_bytes() == before
    report = json.loads((stopped / "report.json").read_text())
    assert report["warnings"] == []
    compressed = report["models"]["compressed"]
    assert (compressed["format"], compressed["parameters"], compressed["integer_share"]) == ("exported", 579, 0)


@pytest.mark.slow
def test_a_recipe_file_that_was_edited_is_refused_and_as_it_was_goes_on(
    dflare: Callable[..., Any], toys: Any, tmp_path: Path
):
    """The placebo would learn by other parts than the repair did."""
    recipe = tmp_path / "own.yaml"
    recipe.write_text("loss: margin\n")
    settings = toys.settings(tmp_path / "run", repair__recipe=recipe)
    assert dflare("search", *settings).code == 0
    recipe.write_text("loss: hinge\n")
    answer = dflare("repair", *settings)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "was begun with other parts of its recipe (loss: margin, now hinge); choose another run_dir" in answer.err
    recipe.write_text("loss: margin  # as before\n")
    assert dflare("repair", *settings).code == 0


def test_a_users_own_function_is_in_the_environment_with_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own_networks.py").write_text("def make(): ...\n")
    (tmp_path / "weights.pt").write_bytes(b"numbers")
    monkeypatch.syspath_prepend(tmp_path)
    source = Source("own_networks:make", weights=tmp_path / "weights.pt", allow_code=True)
    found = environment({"original": source})["models"]["original"]
    assert (found["file"], found["format"], list(found["external"])) == ("own_networks:make", "code", ["weights.pt"])
    assert found["bytes"] == len("def make(): ...\n")
    assert found["runtime"].startswith("own_networks:make, torch ")


def test_the_environment_says_what_figures_hang_on():
    found = environment({})
    assert found["threads"]["torch"] >= 1
    assert found["deterministic"]["algorithms"] in (True, False)
    assert found["processor"]["flags"] == sorted(found["processor"]["flags"])
