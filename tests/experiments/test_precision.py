"""Mixed precision in the loop: more bits before the first training, controls with and without them, and the report."""

import json
import re
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import jsonschema
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from dflare.errors import InputError  # noqa: E402
from experiments import precision  # noqa: E402
from experiments.main import main  # noqa: E402
from experiments.report_precision import precision_section, precision_words  # noqa: E402
from experiments.report_schema import conform, report_schema  # noqa: E402
from experiments.settings import load_config, read_yaml  # noqa: E402
from repair.onnx_models.activations import find_activations  # noqa: E402
from repair.onnx_models.difference import difference, graph_difference  # noqa: E402
from tests.experiments.conftest import Toys, as_before  # noqa: E402
from tests.repair import planted_net  # noqa: E402

PASSING = ("seconds", "latency_before", "latency_after", "milliseconds")
"""Figures that are different in every run."""


def lasting(value: Any) -> Any:
    """Figures without times."""
    if isinstance(value, dict):
        return {key: lasting(item) for key, item in value.items() if key not in PASSING}
    return [lasting(item) for item in value] if isinstance(value, list) else value


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def rounds(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def settings(toys: Toys, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """The settings of a run on the planted pair, `settings(folder, key__of=value)`."""
    folder = tmp_path_factory.mktemp("planted")
    files = {
        "pair__original": planted_net.save(planted_net.original(), folder / "original.onnx"),
        "pair__compressed": planted_net.save(planted_net.compressed(), folder / "int8.onnx"),
    }

    def made(run_dir: Path, **changes: Any) -> list[str]:
        chosen = {"repair__precision__activations": "chosen", "repair__precision__images": 400}
        return toys.settings(run_dir, **{"repair__learning_rate": 0.001, **files, **chosen, **changes})

    return made


@pytest.fixture(scope="module")
def whole(settings: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two rounds. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with as_before(), redirect_stdout(StringIO()):
        assert main(["loop", *settings(folder, loop__rounds=2)]) == 0
    return folder


def handed_in(folder: Path) -> Path:
    return Path(read_yaml(folder / "config.yaml").pair.compressed)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"activations": "some"}, "repair.precision.activations must be one of null, all, chosen, got 'some'"),
        ({"choose": "luck"}, "repair.precision.choose must be one of greedy, size, chance, got 'luck'"),
        ({"weights": -0.1}, "repair.precision.weights must be in [0, 1], got -0.1"),
        ({"max_bytes": 0.9}, "repair.precision.max_bytes must be in [1, inf], got 0.9"),
        ({"max_latency": 0}, "repair.precision.max_latency must be in [1, inf], got 0"),
        ({"bits": 16}, "unknown key repair.precision.bits"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], said: str):
    with pytest.raises(InputError, match=re.escape(said)):
        load_config([f"repair.precision.{key}={value}" for key, value in changes.items()])


@pytest.mark.parametrize(
    ("verb", "file", "said"),
    [
        (
            "search",
            "{toys}/pruned.pt2",
            "pruned.pt2 refuses: no activation is quantised per tensor",
        ),
        ("loop", "{planted}/original.onnx", "original.onnx refuses: no activation is quantised per tensor"),
    ],
)
def test_a_model_that_cannot_have_more_bits_is_refused_before_any_work(
    verb: str, file: str, said: str, dflare: Any, toys: Toys, settings: Callable[..., list[str]], tmp_path: Path
):
    planted = Path(settings(tmp_path)[0].split("=")[1]).parent
    path = file.format(toys=toys.folder, planted=planted)
    answer = dflare(verb, *settings(tmp_path / "run", pair__compressed=path))
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert said in answer.err
    assert not (tmp_path / "run").exists()


STEP = {
    "tensors": [],
    "grids": 0,
    "bytes": 1000,
    "milliseconds": 0.1,
    "divergence": 0.01,
    "deviating": {"value": 0.0, "low": 0.0, "high": 0.01, "n": 400},
    "differing": {"value": 0.1, "low": 0.07, "high": 0.13, "n": 400},
    "repaired": {"value": 0.0, "low": 0.0, "high": 0.3, "n": 9},
}
FINER = {
    **STEP,
    "tensors": ["a|b"],
    "grids": 1,
    "deviating": {"value": 0.04, "low": 0.03, "high": 0.06, "n": 400},
    "differing": {"value": 0.04, "low": 0.03, "high": 0.06, "n": 400},
}
FOUND = {
    "activations": "chosen",
    "choose": "greedy",
    "taken": 1,
    "tensors": ["a|b"],
    "weights": [],
    "float_output": False,
    "grids": 1,
    "next_weight": 50,
    "all_weights": 500,
    "images": {"train": 100, "train_triggers": 5, "validate": 400, "validate_triggers": 9},
    "before": STEP,
    "after": FINER,
    "orders": {"greedy": [STEP, FINER], "size": [STEP, FINER], "chance": [STEP]},
}


def test_the_section_says_what_got_more_bits_and_what_is_left_to_the_weights():
    assert conform(FOUND, "Precision", "precision.json") == FOUND
    text = "\n".join(precision_section([{"precision": FOUND}, {"precision": None}], None))
    assert r"16 bits for 1 of 1 grids of activations (a\|b)." in text
    assert r"| 1 (taken) | 1,000 | 0.1 ms | 4.00 % (4.00 %) | 4.00 % (4.00 %) | – | a\|b |" in text
    words = precision_words(FOUND)
    assert "More images deviate than before (0 % to 4.00 %): ties of the rounded output" in words
    assert "4.00 % is left, by the rounding of the weights" in words
    assert "5.00 % of the file's bytes for the smallest weight that has 8 bits, 50.0 % for all" in words


def test_a_file_without_more_bits_says_so():
    nothing = {**FOUND, "taken": 0, "tensors": [], "after": STEP, "orders": {"greedy": [STEP, FINER]}}
    assert precision_words(nothing).startswith("No tensor got more bits.")
    assert precision_section([{"precision": None}], None) == []


@pytest.mark.slow
class TestWholeRun:
    def test_only_the_planted_grid_is_widened(self, whole: Path):
        target, before = whole / "round-00" / "precision" / "model.onnx", handed_in(whole)
        found = read(whole / "round-00" / "precision.json")
        assert found["tensors"] == ["h"]
        assert found["taken"] == 1
        assert found["after"]["differing"]["value"] < 0.01 < found["before"]["differing"]["value"]
        changed = difference(onnx.load(before), onnx.load(target))
        assert changed.data == ["h.s"]
        assert [words for words in changed.structure if "of the model" not in words] == [
            "element type or shape of initialiser 'h.z' differs"
        ]
        assert [path.name for path in target.parent.iterdir() if path.is_file()] == ["model.onnx"]
        assert not (target.parent / "candidates").exists()

    def test_every_training_starts_from_the_same_bits_but_that_of_the_control_without(self, whole: Path):
        elements = {}
        for number in (0, 1):
            for part in ("model", "placebo", "noop", "eight-bit"):
                path = whole / f"round-0{number}" / part / "model.onnx"
                if path.exists():
                    model = onnx.load(path)
                    elements[number, part] = {each.name: each.element for each in find_activations(model)}["h"]
        assert elements == {
            (0, "model"): "uint16",
            (0, "placebo"): "uint16",
            (0, "noop"): "uint8",
            (0, "eight-bit"): "uint8",
            (1, "model"): "uint16",
            (1, "placebo"): "uint16",
            (1, "noop"): "uint16",
        }
        steps = {part: read(whole / "round-00" / part / "training.json") for part in ("model", "placebo", "eight-bit")}
        assert len({(each["steps"], each["triggers"]) for each in steps.values()}) == 1
        assert steps["model"]["steps"] > 0

    def test_the_repair_is_held_against_the_bits_alone_and_the_placebo_without_them(self, whole: Path):
        first, second = rounds(whole)
        final = read(whole / "headline.json")
        for entry in (first, final):
            assert entry["bits"]["repair"]["generalization"]["value"] == 1
            assert entry["bits"]["repair"]["probe_before"] == entry["repair"]["probe_before"]
            assert entry["bits"]["repair"]["probe_after"]["value"] < entry["repair"]["probe_before"]["value"]
            assert entry["noop"]["repair"]["probe_after"] == entry["repair"]["probe_before"]
            assert entry["gains"]["generalization"]["bits"] == entry["bits"]["repair"]["generalization"]
            assert entry["gains"]["words"] in entry["beats_placebo_words"]
        assert first["eight_bit"]["repair"]["generalization"]["value"] < 1
        assert "bits" not in second  # it begins with them
        assert final["cost"]["bytes_after"] == final["cost"]["bytes_before"] + 1

    def test_the_report_shows_frontier_and_controls_and_keeps_to_its_schema(self, whole: Path):
        report = read(whole / "report.json")
        jsonschema.validate(report, report_schema())
        assert report["rounds"][0]["precision"]["tensors"] == ["h"]
        assert report["rounds"][1]["precision"] is None
        assert (report["rounds"][1]["bits"], report["rounds"][1]["eight_bit"]) == (None, None)
        page = (whole / "report.md").read_text()
        section = page[page.index("## Mixed precision") :]
        assert "1 of 3 grids of activations (h)" in section
        assert "| figure | the bits alone | placebo, same bits | repair | placebo without the bits |" in section

    def test_stages_and_an_interruption_come_to_what_one_call_comes_to(
        self, whole: Path, settings: Callable[..., list[str]], dflare: Any, tmp_path: Path, monkeypatch: Any
    ):
        folder = tmp_path / "run"
        arguments, write = settings(folder, loop__rounds=2), precision.write_atomic

        def killed(*arguments: Any) -> None:
            raise KeyboardInterrupt

        assert dflare("search", *arguments).code == 0
        monkeypatch.setattr(precision, "write_atomic", killed)  # the model is there, what says why is not
        assert dflare("repair", *arguments).code == 130
        assert (folder / "round-00" / "precision" / "model.onnx").exists()
        monkeypatch.setattr(precision, "write_atomic", write)
        assert "16 bits for 1 of 3 grids" in dflare("repair", *arguments).out
        assert dflare("retest", *arguments).code == 0
        shutil.rmtree(folder / "round-00" / "eight-bit" / "after")  # of what is there already, the rest is made again
        assert dflare("loop", *arguments).code == 0
        assert lasting(rounds(folder)) == lasting(rounds(whole))
        assert lasting(read(folder / "headline.json")) == lasting(read(whole / "headline.json"))
        for path in ("precision.json", "precision/model.onnx", "model/model.onnx", "eight-bit/model.onnx"):
            one, two = (place / "round-00" / path for place in (folder, whole))
            assert (
                lasting(read(one)) == lasting(read(two)) if path.endswith("json") else graph_difference(one, two) == []
            )

    def test_a_round_after_one_that_was_rolled_back_has_the_bits_too(
        self, settings: Callable[..., list[str]], dflare: Any, tmp_path: Path
    ):
        folder = tmp_path / "run"
        wild = settings(folder, loop__rounds=2, repair__learning_rate=3, gate__max_drawdown=0.0)
        assert dflare("loop", *wild).code in (0, 1)
        assert [entry["rolled_back"] for entry in rounds(folder)] == [True, True]
        for number in (0, 1):
            model = onnx.load(folder / f"round-0{number}" / "model" / "model.onnx")
            assert {each.name: each.element for each in find_activations(model)}["h"] == "uint16"
            assert rounds(folder)[number]["bits"]["repair"]["probe_after"]["value"] < 0.1
        final = read(folder / "headline.json")
        assert (final["rolled_back"], final["placebo"], final["eight_bit"], final["gains"]) == (True, None, None, None)
        assert final["bits"] is not None

    def test_where_nothing_is_to_gain_no_byte_changes(
        self, settings: Callable[..., list[str]], dflare: Any, tmp_path: Path
    ):
        folder, fine = tmp_path / "run", tmp_path / "fine.onnx"
        planted_net.save(planted_net.compressed(), fine)
        assert dflare("loop", *settings(folder, pair__original=fine, pair__compressed=fine)).code == 0
        found = read(folder / "round-00" / "precision.json")
        assert (found["tensors"], found["weights"], found["taken"]) == ([], [], 0)
        assert not (folder / "round-00" / "precision" / "model.onnx").exists()
        assert (folder / "round-00" / "model" / "model.onnx").read_bytes() == fine.read_bytes()
        assert "bits" not in rounds(folder)[0]
        assert "No tensor got more bits." in (folder / "report.md").read_text()
