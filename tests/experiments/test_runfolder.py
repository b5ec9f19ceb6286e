"""A run folder belongs to one process and one configuration, and forgets a run that found nothing."""

import json
from pathlib import Path

import pytest
from filelock import FileLock

from dflare.errors import InputError
from experiments.config import Config
from experiments.runfolder import open_run, write_environment
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
    ["seed=1", "search.seeds=5", "search.mutations=[median_blur]", "repair.steps=7", "pair.name=digits-cnn-int8"],
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


def test_other_models_and_other_images_in_the_same_place_are_refused(begun: Path, tmp_path: Path):
    model = tmp_path / "model.pt2"
    model.write_bytes(b"first")
    with open_run(settings(begun)) as run:
        write_environment(run, {"compressed": model}, {"judge": "1"})
        assert json.loads((begun / "environment.json").read_text())["models"]["compressed"]["bytes"] == 5
        with pytest.raises(InputError, match=r"begun with other images \(judge\)"):
            write_environment(run, {"compressed": model}, {"judge": "2"})
        model.write_bytes(b"other")
        with pytest.raises(InputError, match=r"begun with other models \(compressed\)"):
            write_environment(run, {"compressed": model}, {"judge": "1"})
