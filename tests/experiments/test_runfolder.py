"""A run folder belongs to one process and one configuration, and forgets a run that found nothing."""

import json
import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from dflare.errors import InputError
from experiments.config import Config
from experiments.continuing import check_contents
from experiments.runfolder import check_same, open_run, write_environment
from experiments.settings import load_config


def settings(folder: Path, *arguments: str) -> Config:
    return load_config([f"run_dir={folder}", *arguments])


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run folder in which a first round has begun."""
    folder = tmp_path / "run"
    with open_run(settings(folder)) as run:
        (run.round(0) / "triggers").mkdir(parents=True)
        (run.round(0) / "triggers" / "triggers-0-0.npz").touch()
    return folder


def refusal(folder: Path, *arguments: str) -> str:
    with pytest.raises(InputError) as caught, open_run(settings(folder, *arguments)):
        pass
    return str(caught.value)


def test_the_configuration_of_a_folder_runs_it_again(begun: Path):
    again = load_config([str(begun / "config.yaml")])
    assert again == settings(begun)
    with open_run(again) as run:
        assert run.path == begun


@pytest.mark.parametrize(
    "argument",
    [
        "seed=1",
        "search.seeds=5",
        "search.mutations=[median_blur]",
        "repair.steps=7",
        "pair.name=digits-cnn-int8",
        "trainer.precision=bf16-mixed",  # a repair and its placebo would compute in two ways
    ],
)
def test_other_settings_are_refused_and_named(begun: Path, argument: str):
    before = (begun / "config.yaml").read_bytes()
    words = refusal(begun, argument)
    assert f"the run folder {begun} was made with {argument.partition('=')[0]}=" in words
    assert (begun / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    "argument", ["gate.max_drawdown=0.5", "threads=1", "loop.rounds=9", "search.max_seconds=5", "search.batch_size=8"]
)
def test_what_changes_no_result_may_change(begun: Path, argument: str):
    with open_run(settings(begun, argument)):
        pass
    assert load_config([str(begun / "config.yaml")]) == settings(begun, argument)


def test_a_moved_folder_is_still_the_same_run(begun: Path):
    moved = begun.rename(begun.with_name("moved"))
    with open_run(settings(moved)) as run:
        assert run.path == moved


def test_a_second_process_is_kept_out_and_let_in_afterwards(begun: Path):
    with FileLock(begun / ".lock"):
        assert refusal(begun) == f"another process is working in {begun}; wait for it or choose another run_dir"
    with open_run(settings(begun)):
        pass


def test_a_file_and_a_foreign_folder_are_refused_and_left_alone(tmp_path: Path):
    thesis = tmp_path / "home" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    assert refusal(thesis) == f"run_dir must be a folder, got the file {thesis}"
    assert "cannot be made" in refusal(thesis / "below")
    assert f"got {thesis.parent}, which has files but no config.yaml" in refusal(thesis.parent)
    assert list(thesis.parent.iterdir()) == [thesis]
    assert thesis.read_text() == "years of work"


@pytest.mark.parametrize("text", ["- 1", "seed: [", "seed: 0"])
def test_a_foreign_config_is_refused_and_left_alone(tmp_path: Path, text: str):
    (tmp_path / "config.yaml").write_text(text)
    assert str(tmp_path) in refusal(tmp_path)
    assert (tmp_path / "config.yaml").read_text() == text


@pytest.mark.parametrize("error", [InputError("no model"), KeyboardInterrupt(), TimeoutError()])
def test_a_run_that_fails_before_it_finds_anything_leaves_nothing(tmp_path: Path, error: BaseException):
    def fail() -> None:
        with open_run(settings(tmp_path / "run")) as run:
            write_environment(run, {}, {})
            raise error

    with pytest.raises(type(error)):
        fail()
    assert not (tmp_path / "run").exists()


def test_a_folder_left_by_a_kill_before_its_configuration_was_written_is_new(tmp_path: Path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.yaml.123.tmp").touch()
    with open_run(settings(tmp_path)) as run:
        run.round(0).mkdir()
    assert load_config([str(tmp_path / "config.yaml")]) == settings(tmp_path)


def test_what_a_killed_process_left_half_written_goes(begun: Path):
    (begun / "round-00" / ".model.pt2.x1y2.tmp").mkdir()  # a writer that names files itself writes into a folder
    (begun / "round-00" / ".model.pt2.x1y2.tmp" / "model.pt2").touch()
    (begun / ".best.ckpt.tmp").touch()
    with open_run(settings(begun)):
        assert list(begun.rglob(".*.tmp*")) == []


def test_a_run_that_fails_later_keeps_what_it_found(begun: Path):
    with pytest.raises(KeyboardInterrupt), open_run(settings(begun)):
        raise KeyboardInterrupt
    assert (begun / "round-00" / "triggers" / "triggers-0-0.npz").is_file()
    assert "was made with seed=0, now it is 1" in refusal(begun, "seed=1")


def test_a_run_refused_before_it_found_anything_leaves_the_folder_to_another_configuration(tmp_path: Path):
    def refuse() -> None:
        with open_run(settings(tmp_path / "run")) as run:
            (run.round(0) / "triggers").mkdir(parents=True)
            (run.round(0) / "replay.json").write_text("{}")
            raise InputError("this strategy needs other models")

    with pytest.raises(InputError):
        refuse()
    with open_run(settings(tmp_path / "run", "seed=1")) as run:
        assert not list(run.path.glob("round-*"))


def test_a_torn_last_line_is_no_round(begun: Path):
    with open_run(settings(begun)) as run:
        assert run.rounds() == []
        run.add_round('{"round": 0, "rolled_back": false, "repair": {}}')
        with (begun / "rounds.jsonl").open("a") as file:
            file.write('{"round": 1, "rolled')
        assert run.rounds() == [{"round": 0, "rolled_back": False, "repair": {}}]
        run.add_round('{"round": 1, "rolled_back": true, "repair": {}}')
        assert [line["round"] for line in run.rounds()] == [0, 1]


@pytest.mark.parametrize("line", ['{"round": 0}', "[]", "3", '{"rolled_back": "no", "repair": {}}'])
def test_a_line_that_is_no_round_is_refused(begun: Path, line: str):
    with open_run(settings(begun)) as run:
        run.add_round(line)
        with pytest.raises(InputError, match=r"expected a finished round in line 1 of .*rounds\.jsonl"):
            run.rounds()


def test_the_environment_is_written_once_and_changes_are_added(begun: Path, monkeypatch: pytest.MonkeyPatch):
    path = begun / "environment.json"
    with open_run(settings(begun)) as run:
        write_environment(run, {}, {})
        first = json.loads(path.read_text())
        write_environment(run, {}, {})
        assert json.loads(path.read_text()) == first
        assert first["packages"]["torch"]
        monkeypatch.setattr("os.cpu_count", lambda: 1000)
        write_environment(run, {}, {})
    found = json.loads(path.read_text())
    assert {key: value for key, value in found.items() if key != "continued"} == first
    assert [entry["cores"] for entry in found["continued"]] == [1000]


def test_a_recipe_of_other_parts_under_the_same_name_is_refused(begun: Path):
    with open_run(settings(begun)) as run:
        for recipe in ({"loss": "margin", "rate": 1.0}, {"loss": "margin", "rate": 1.0}):
            write_environment(run, {}, {}, {"recipe": recipe})
        with pytest.raises(InputError, match=r"other parts of its recipe \(loss: margin, now hinge\); choose another"):
            write_environment(run, {}, {}, {"recipe": {"loss": "hinge", "rate": 1.0}})
        write_environment(run, {}, {})  # a version that wrote none down


def test_other_models_and_other_images_in_the_same_place_are_refused(begun: Path, toys: Any, tmp_path: Path):
    model = tmp_path / "model.pt2"
    model.write_bytes(toys.model("original").read_bytes())
    with open_run(settings(begun)) as run:
        write_environment(run, {"compressed": model}, {"judge": "1"})
        found = json.loads((begun / "environment.json").read_text())["models"]["compressed"]
        assert (found["bytes"], found["format"], found["parameters"]) == (model.stat().st_size, "exported", 3 * 192 + 3)
        for images in ({"judge": "2"}, {"judge": "1", "train": "1"}):
            with pytest.raises(InputError, match=r"begun with other images \((judge|train)\)"):
                write_environment(run, {"compressed": model}, images)
        write_environment(run, {"compressed": model.rename(tmp_path / "moved.pt2")}, {"judge": "1"})
        model.write_bytes(toys.model("pruned").read_bytes())
        with pytest.raises(InputError, match=r"begun with other models \(compressed\)"):
            write_environment(run, {"compressed": model}, {"judge": "1"})
        with pytest.raises(InputError, match=r"begun with other models \(compressed\)"):
            check_same(begun, {"compressed": model}, {"judge": "1"})


def doctored(folder: Path, model: Path, changes: Callable[[dict[str, Any]], None]) -> Path:
    """The environment.json of a run that began with a model, after the changes."""
    path = folder / "environment.json"
    with open_run(settings(folder)) as run:
        write_environment(run, {"compressed": model}, {})
    found = json.loads(path.read_text())
    changes(found)
    path.write_text(json.dumps(found))
    return path


def older_runtime(found: dict[str, Any]) -> None:
    found["models"]["compressed"]["runtime"] = "torch 1.0"


def older_torch(found: dict[str, Any]) -> None:
    found["packages"]["torch"] = "1.0"


def another_processor(found: dict[str, Any]) -> None:
    own = found["processor"]["flags"]
    found["processor"]["flags"] = [*own[1:], "amx_other"]


def not_deterministic(found: dict[str, Any]) -> None:
    found["deterministic"]["algorithms"] = not found["deterministic"]["algorithms"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (older_runtime, r"the compressed model was answered by torch 1\.0, now by torch \d+\.\d+\S*"),
        (older_torch, r"torch was 1\.0, now \d+\.\d+\S*"),
        (another_processor, r"the processor is now without amx_other and with \w+"),
        (not_deterministic, r"deterministic algorithms were (on, now off|off, now on)"),
    ],
)
def test_another_runtime_is_one_line_of_warning_and_is_recorded(
    begun: Path, toys: Any, capsys: pytest.CaptureFixture[str], changes: Callable[[dict[str, Any]], None], words: str
):
    model = toys.model("original")
    path = doctored(begun, model, changes)
    assert capsys.readouterr().err == ""
    with open_run(settings(begun)) as run:
        write_environment(run, {"compressed": model}, {})
    said = capsys.readouterr().err
    line = rf"another runtime than at \S+: {words}; figures before and after may differ by the runtime alone"
    assert re.fullmatch(rf"dflare: warning: {line}\n", said), said
    (entry,) = json.loads(path.read_text())["continued"]
    assert [f"dflare: warning: {text}\n" for text in entry["warnings"]] == [said]
    with open_run(settings(begun)) as run:
        write_environment(run, {"compressed": model}, {})
    assert capsys.readouterr().err == said  # said again, because figures from before are still there
    assert len(json.loads(path.read_text())["continued"]) == 1


def test_other_threads_are_recorded_without_a_warning(begun: Path, toys: Any, capsys: pytest.CaptureFixture[str]):
    def more_threads(found: dict[str, Any]) -> None:
        found["models"]["compressed"]["threads"] = found["threads"]["torch"] = 1000

    path = doctored(begun, toys.model("original"), more_threads)
    with open_run(settings(begun)) as run:
        write_environment(run, {"compressed": toys.model("original")}, {})
    assert capsys.readouterr().err == ""
    assert json.loads(path.read_text())["continued"][0]["warnings"] == []


def test_an_environment_of_an_older_version_is_compared_in_what_it_has(
    begun: Path, toys: Any, capsys: pytest.CaptureFixture[str]
):
    def older(found: dict[str, Any]) -> None:
        for key in ("threads", "deterministic", "processor"):
            del found[key]
        found["models"]["compressed"] = {key: found["models"]["compressed"][key] for key in ("file", "bytes", "sha256")}

    doctored(begun, toys.model("original"), older)
    with open_run(settings(begun)) as run:
        write_environment(run, {"compressed": toys.model("original")}, {})
    assert capsys.readouterr().err == ""


def test_a_worker_with_another_runtime_says_so_on_the_true_stderr_and_records_it(
    begun: Path, toys: Any, monkeypatch: pytest.MonkeyPatch
):
    path = doctored(begun, toys.model("original"), older_runtime)
    said = StringIO()
    monkeypatch.setattr("sys.__stderr__", said)
    for _ in range(2):
        check_same(begun, {"compressed": toys.model("original")}, {})
    assert re.search(r"answered by torch 1\.0, on \S+ by torch", said.getvalue())
    (entry,) = json.loads(path.read_text())["workers"]
    assert said.getvalue() == 2 * f"dflare: warning: {entry['warnings'][0]}\n"


def test_a_worker_with_the_same_runtime_writes_nothing(begun: Path, toys: Any, monkeypatch: pytest.MonkeyPatch):
    path = doctored(begun, toys.model("original"), lambda found: None)
    before, said = path.read_bytes(), StringIO()
    monkeypatch.setattr("sys.__stderr__", said)
    check_same(begun, {"compressed": toys.model("original")}, {})
    assert (path.read_bytes(), said.getvalue()) == (before, "")


def test_weights_beside_a_model_belong_to_it():
    known = {"models": {"original": {"sha256": "a", "external": {"w": {"sha256": "b"}}}}}
    changed = {"models": {"original": {"sha256": "a", "external": {"w": {"sha256": "c"}}}}, "images": {}}
    with pytest.raises(InputError, match=r"begun with other models \(original\)"):
        check_contents(Path("run"), known, changed)
    unknown = {"models": {"original": {"sha256": "a", "external": None}}, "images": {}}
    check_contents(Path("run"), known, unknown)  # where the package onnx is missing
