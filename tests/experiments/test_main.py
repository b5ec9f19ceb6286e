"""The command line: what it offers, what it answers at once, and its exit codes."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.run import Run
from experiments.settings import load_config

VERBS = {"search", "repair", "retest", "loop", "ablate", "estimate", "report", "properties"}
HEAVY = ("torch", "numpy", "sklearn", "pytorch_lightning", "onnx", "onnxruntime", "PIL")


def listed_verbs(text: str) -> set[str]:
    return set(re.findall(r"^    (\w+)(?: {2,}\S|$)", text, re.MULTILINE))


def imported(profile: str) -> set[str]:
    """The top-level modules in what PYTHONPROFILEIMPORTTIME prints."""
    return {line.rpartition("|")[2].strip().split(".")[0] for line in profile.splitlines() if "|" in line}


def assert_refused(answer: Any, words: str) -> None:
    """One sentence on stderr, nothing else, exit code 2."""
    assert answer.code == 2
    assert answer.out == ""
    assert re.fullmatch(r"dflare: error: [^\n]+\n", answer.err), answer.err
    assert re.search(words, answer.err)


def test_help_lists_the_verbs_that_are_built_and_no_others(dflare: Callable[..., Any]):
    answer = dflare("--help")
    assert (answer.code, answer.err) == (0, "")
    assert listed_verbs(answer.out) == VERBS


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_help(verb: str, dflare: Callable[..., Any]):
    answer = dflare(verb, "--help")
    assert answer.code == 0
    assert answer.out.startswith(f"usage: dflare {verb}")


@pytest.mark.parametrize("arguments", [(), ("serve",), ("loop", "--rounds=2"), ("report",), ("report", "a", "b")])
def test_what_is_no_call_is_refused_with_the_usage(arguments: tuple[str, ...], dflare: Callable[..., Any]):
    answer = dflare(*arguments)
    assert answer.code == 2
    assert answer.err.startswith("usage: dflare")
    assert re.match(r"dflare( \w+)?: error: ", answer.err.splitlines()[-1])


@pytest.mark.parametrize(
    "arguments",
    [
        ("seed=3", "mnist-lenet5", "--print-config"),
        ("--print-config", "mnist-lenet5", "seed=3"),
        ("mnist-lenet5", "--print-config", "seed=3"),
    ],
)
def test_print_config_shows_complete_settings_and_does_nothing_else(
    arguments: tuple[str, ...], dflare: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    answer = dflare("loop", *arguments)
    assert (answer.code, answer.err, list(tmp_path.iterdir())) == (0, "", [])
    (tmp_path / "shown.yaml").write_text(answer.out)
    assert load_config([str(tmp_path / "shown.yaml")]) == load_config(["mnist-lenet5", "seed=3"])


def test_a_wrong_setting_is_refused_in_one_sentence_and_nothing_is_written(
    dflare: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert_refused(dflare("loop", "search.seedz=3"), r"did you mean search\.seeds\?")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_gate_decides_between_exit_code_0_and_1(
    dflare: Callable[..., Any], toys: Any, finished: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    failed = dflare("loop", *toys.settings(folder, loop__rounds=2, gate__min_queries_ratio=1000))
    assert failed.code == 1
    assert "the release gate FAILED" in failed.out
    assert "gate.min_queries_ratio = 1000 is not met" in failed.out
    assert dflare("report", str(folder)).code == 1
    passed = dflare("loop", *toys.settings(folder, loop__rounds=2))
    assert passed.code == 0
    assert "the release gate passed" in passed.out
    assert dflare("report", str(folder)) == passed


def test_an_interrupt_is_exit_code_130_and_one_sentence(
    dflare: Callable[..., Any], toys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(run: Run) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.loop.loop", interrupted)
    answer = dflare("loop", *toys.settings(tmp_path / "run"))
    assert (answer.code, answer.out) == (130, "")
    assert answer.err == "dflare: interrupted; run the same command to continue\n"


def test_the_end_of_the_time_is_exit_code_130_and_one_sentence(dflare: Callable[..., Any], toys: Any, tmp_path: Path):
    answer = dflare("search", *toys.settings(tmp_path / "run", search__max_seconds=0))
    assert (answer.code, answer.out) == (130, "")
    assert answer.err == "dflare: search.max_seconds=0 is over; run the same command to continue\n"


def test_help_in_a_process_of_its_own_imports_no_model_code(console: Callable[..., Any]):
    answer = console("--help", PYTHONPROFILEIMPORTTIME="1")
    assert answer.code == 0
    assert listed_verbs(answer.out) == VERBS
    modules = imported(answer.err)
    assert "experiments" in modules
    assert modules.isdisjoint(HEAVY)


def test_wrong_settings_in_a_process_of_their_own_import_no_model_code(console: Callable[..., Any], tmp_path: Path):
    answer = console("loop", "search.seeds=many", f"run_dir={tmp_path / 'run'}", PYTHONPROFILEIMPORTTIME="1")
    assert answer.code == 2
    assert imported(answer.err).isdisjoint(HEAVY)
    assert "Traceback" not in answer.err
    assert not (tmp_path / "run").exists()
    assert_refused(console("loop", "search.seeds=many"), r"wrong value for search\.seeds")


def test_print_config_in_a_process_of_its_own(console: Callable[..., Any]):
    answer = console("loop", "--print-config")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("pair:\n  name: digits-cnn-pruned\n")


def test_a_report_opens_no_model(console: Callable[..., Any], finished: Path, tmp_path: Path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    answer = console("report", str(folder), PYTHONPROFILEIMPORTTIME="1")
    assert answer.code == 0
    assert "the release gate passed" in answer.out
    assert imported(answer.err).isdisjoint(set(HEAVY) - {"numpy", "PIL"})
