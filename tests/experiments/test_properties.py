"""`dflare properties`: a network of 2-8-3 whose scores are its inputs, so that every figure is known beforehand."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from experiments.main import main
from experiments.properties_config import DECISIONS, METHODS, PropertySettings, load_properties, needed_samples
from experiments.properties_inputs import open_subject
from repair.onnx_models.difference import difference
from repair.onnx_models.weights import read_whole
from repair.properties.claims import state_each
from repair.properties.dense import Activation, DenseNetwork
from repair.properties.judging import DECISIONS as KNOWN_DECISIONS
from repair.properties.methods import METHODS as KNOWN_METHODS
from repair.properties.networks import run_onnx
from repair.properties.pac import samples_needed
from repair.properties.writing import save_network

Call = Callable[..., Any]

BRIEF = ("properties.samples=100", "properties.epsilon=0.02", "properties.delta=0.05", "properties.output=max")
NEEDED = 149  # (1 - 0.02)^149 <= 0.05


def linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


def scores_are_inputs(activation: str = "Relu") -> DenseNetwork:
    """y = (x0, 0.5, x1 - 1) for inputs in [0, 1], with six neurons that nothing reads."""
    rest = 0.3 * torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    last = torch.cat([torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]), torch.zeros(3, 6)], 1)
    layers = [
        linear(torch.cat([torch.eye(2), rest]), torch.zeros(8)),
        linear(last, torch.tensor([0.0, 0.5, -1.0])),
    ]
    return DenseNetwork(layers, [Activation(activation), Activation()])


def statement(constraint: str, inputs: int = 2) -> str:
    """A VNN-LIB text: on [0, 1]^inputs the constraint is unsafe."""
    names = [f"X_{index}" for index in range(inputs)]
    declared = [f"(declare-const {name} Real)" for name in (*names, "Y_0", "Y_1", "Y_2")]
    bounds = [f"(assert (>= {name} 0)) (assert (<= {name} 1))" for name in names]
    return "\n".join([*declared, *bounds, f"(assert {constraint})"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the network and properties of it."""
    folder = tmp_path_factory.mktemp("made")
    save_network(scores_are_inputs(), folder / "net.onnx")
    for name, constraint in (
        ("low", "(>= Y_0 0.95)"),
        ("far", "(>= Y_0 7)"),
        ("third", "(>= Y_2 -0.05)"),
    ):
        (folder / f"{name}.vnnlib").write_text(statement(constraint))
    (folder / "wide.vnnlib").write_text(statement("(>= Y_0 0.95)", inputs=3))
    return folder


def arguments(made: Path, run_dir: Path, *more: str, claims: tuple[str, ...] = ("low",)) -> list[str]:
    files = [str(made / f"{name}.vnnlib") for name in claims]
    return ["properties", str(made / "net.onnx"), *files, *BRIEF, f"run_dir={run_dir}", *more]


@pytest.fixture(scope="module")
def repaired(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("repaired") / "run"
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        assert main(arguments(made, folder, "properties.domain=-1..1")) == 0
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
    return folder


def read(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def assert_refused(answer: Any, words: str) -> None:
    """One sentence on stderr, nothing else, exit code 2."""
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("dflare: error: ")
    assert answer.err.count("\n") == 1
    assert words in answer.err


def test_the_repaired_file_keeps_the_property_and_the_report_says_so(repaired: Path):
    report = read(repaired)
    assert (report["schema_version"], report["kind"], report["gate"]) == (
        1, "properties", {"passed": True, "reasons": []},
    )  # fmt: skip
    before, after, plain = (report[name] for name in ("before", "after", "plain"))
    assert before["repaired"]["value"] <= 0.05  # but for answers at the bound that the two runtimes round differently
    assert (before["agreement_box"]["value"], before["agreement_domain"]["value"]) == (1, 1)
    assert after["repaired"]["value"] == after["unseen"]["value"] == 1
    assert after["new_violations"]["value"] == 0
    assert after["agreement_domain"]["n"] == 20_000
    assert after["agreement_domain"]["value"] > 0.9
    (claim,) = after["statements"]
    assert (claim["property"], claim["samples"], claim["violations"], claim["delta"]) == ("low", NEEDED, 0, 0.05)
    assert claim["bound"] <= 0.02 < before["statements"][0]["bound"]
    assert plain["statements"][0]["samples"] == NEEDED


def test_the_page_begins_with_the_verdict_and_the_statement(repaired: Path):
    lines = (repaired / "report.md").read_text().splitlines()
    assert lines[2] == (
        "**the bound of 0.02 on the violation rate, with confidence 95 %, holds for the repaired network**"
    )
    assert lines[4].startswith("- low: the violation rate is at most 0.0199 with confidence 95 % (0 violations in 149")
    assert lines[5].startswith("- low, unrepaired: the violation rate is at most 0.")


def test_the_repaired_network_is_the_same_graph_with_other_weights(repaired: Path, made: Path):
    data, structure = difference(read_whole(made / "net.onnx"), read_whole(repaired / "repaired.onnx"))
    assert data
    assert not structure
    inputs = torch.rand(500, 2, generator=torch.Generator().manual_seed(8))
    assert run_onnx(repaired / "repaired.onnx", inputs)[:, 0].max() < 0.95


def test_the_same_command_shows_the_report_again_and_does_nothing_else(
    dflare: Call, repaired: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "run"
    shutil.copytree(repaired, folder)
    for name in ("draw_claim", "state_each", "judge"):
        monkeypatch.setattr(f"experiments.properties_run.{name}", None)
    monkeypatch.setattr("experiments.properties_run.METHODS", {})
    again = dflare(*arguments(made, folder, "properties.domain=-1..1"))
    assert (again.code, again.err) == (0, "")
    assert again.out.startswith("run: the bound of 0.02 on the violation rate, with confidence 95 %, holds")
    assert dflare("report", str(folder)) == again


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("properties.epsilon=0.5", "was made with properties.epsilon=0.02, now it is 0.5"),
        ("properties.method=care", "was made with properties.method=hinge, now it is care"),
        ("seed=1", "was made with seed=0, now it is 1"),
    ],
)
def test_a_run_folder_is_bound_to_its_settings(
    change: str, words: str, dflare: Call, repaired: Path, made: Path, tmp_path: Path
):
    """Another seed would be another try at the statement."""
    shutil.copytree(repaired, tmp_path / "run")
    assert_refused(dflare(*arguments(made, tmp_path / "run", "properties.domain=-1..1", change)), words)


def test_a_run_folder_is_bound_to_the_content_of_its_property(dflare: Call, repaired: Path, made: Path, tmp_path: Path):
    shutil.copytree(repaired, tmp_path / "run")
    shutil.copytree(made, tmp_path / "made")
    known = (tmp_path / "run" / "environment.json").read_text()
    known = known.replace(str(made), str(tmp_path / "made"))
    (tmp_path / "run" / "environment.json").write_text(known)
    config = (tmp_path / "run" / "config.yaml").read_text().replace(str(made), str(tmp_path / "made"))
    (tmp_path / "run" / "config.yaml").write_text(config)
    (tmp_path / "made" / "low.vnnlib").write_text(statement("(>= Y_0 0.9)"))
    answer = dflare(*arguments(tmp_path / "made", tmp_path / "run", "properties.domain=-1..1"))
    assert_refused(answer, "was begun with another content of")


@pytest.mark.slow
def test_an_interrupted_run_ends_as_one_that_never_stopped(
    dflare: Call, repaired: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    call, work = arguments(made, tmp_path / "run", "properties.domain=-1..1"), tmp_path / "run" / "round-00"
    for stage in ("draw_claim", "METHODS"):
        with monkeypatch.context() as patch:
            patch.setattr(f"experiments.properties_run.{stage}", _Interrupting())
            answer = dflare(*call)
        assert (answer.code, answer.out) == (130, "")
        assert dflare("report", str(tmp_path / "run")).code == 2, "there is nothing to report yet"
        assert answer.err == "dflare: interrupted; run the same command to continue\n"
        assert (tmp_path / "run").exists() is (stage == "METHODS"), "a folder in which nothing was drawn goes away"
    drawn = (work / "train-1.npz").read_bytes()
    assert dflare(*call).code == 0
    assert (work / "train-1.npz").read_bytes() == drawn
    assert (tmp_path / "run" / "repaired.onnx").read_bytes() == (repaired / "repaired.onnx").read_bytes()
    one, two = read(tmp_path / "run"), read(repaired)
    assert all(one[name] == two[name] for name in ("gate", "before", "after", "plain"))


class _Interrupting(dict):
    """A function, or functions by name, while which somebody presses Ctrl-C."""

    def __getitem__(self, name: str) -> object:
        raise KeyboardInterrupt

    def __call__(self, *given: object) -> object:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("round-00/train-1.npz", b"PK", "expected an array that NumPy can read"),
        ("round-00/judged-after.json", b"[]", "must hold sha256 and statements as the run wrote them; remove the file"),
        ("round-00/hinge.json", b"{}", "must hold sha256 as the run wrote them; remove the file"),
        ("environment.json", b"[]", "must hold properties as the run wrote them; remove the file"),
    ],
)
def test_a_damaged_file_of_a_run_is_refused_in_one_sentence(
    name: str, content: bytes, words: str, dflare: Call, repaired: Path, made: Path, tmp_path: Path
):
    shutil.copytree(repaired, tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(content)
    assert_refused(dflare(*arguments(made, tmp_path / "run", "properties.domain=-1..1")), words)


def test_samples_of_another_width_are_refused(dflare: Call, repaired: Path, made: Path, tmp_path: Path):
    shutil.copytree(repaired, tmp_path / "run")
    path = tmp_path / "run" / "round-00" / "judge-1.npz"
    with np.load(path) as stored:
        np.savez(path, **{**stored, "safe": np.ones((4, 3), np.float32)})
    words = "expected finite inputs (n, 2) in"
    assert_refused(dflare(*arguments(made, tmp_path / "run", "properties.domain=-1..1")), words)


def test_a_report_of_damaged_figures_is_refused(dflare: Call, repaired: Path, tmp_path: Path):
    shutil.copytree(repaired, tmp_path / "run")
    (tmp_path / "run" / "round-00" / "judged-before.json").write_text("{}")
    assert_refused(dflare("report", str(tmp_path / "run")), "are not as a run writes them")


def test_all_networks_are_asked_the_same_fresh_inputs(
    dflare: Call, repaired: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(repaired, tmp_path / "run")
    seeds = []

    def noted(network: Call, claims: tuple, samples: int, delta: float, seed: int) -> tuple:
        seeds.append(seed)
        return state_each(network, claims, samples, delta, seed)

    monkeypatch.setattr("experiments.properties_run.state_each", noted)
    for name in ("before", "after", "plain"):
        (tmp_path / "run" / "round-00" / f"judged-{name}.json").unlink()
    assert dflare(*arguments(made, tmp_path / "run", "properties.domain=-1..1")).code == 0
    assert len(seeds) == 3
    assert len(set(seeds)) == 1
    assert read(tmp_path / "run")["before"] == read(repaired)["before"]


@pytest.mark.slow
def test_a_network_that_was_deleted_is_made_again(dflare: Call, repaired: Path, made: Path, tmp_path: Path):
    shutil.copytree(repaired, tmp_path / "run")
    (tmp_path / "run" / "repaired.onnx").unlink()
    assert dflare(*arguments(made, tmp_path / "run", "properties.domain=-1..1")).code == 0
    assert (tmp_path / "run" / "repaired.onnx").read_bytes() == (repaired / "repaired.onnx").read_bytes()


def test_a_bound_that_does_not_hold_is_exit_code_1_with_the_reason(dflare: Call, made: Path, tmp_path: Path):
    answer = dflare(*arguments(made, tmp_path / "run", "properties.method=none"))
    assert answer.code == 1
    report = read(tmp_path / "run")
    assert (report["after"], report["samples"], report["gate"]["passed"]) == (None, None, False)
    assert "is more than the 0.02 asked for" in report["gate"]["reasons"][0]
    assert "does NOT hold for the network as it is" in answer.out
    assert "Nothing was repaired, as properties.method=none says" in answer.out
    assert not (tmp_path / "run" / "repaired.onnx").exists()


def test_a_property_that_holds_gets_its_statement_and_no_repair(
    dflare: Call, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("repair.properties.sampling.WALKERS", 20)
    monkeypatch.setattr("repair.properties.splitting.LEVELS", 2)
    answer = dflare(*arguments(made, tmp_path / "run", claims=("far",)))
    assert answer.code == 0
    assert "far: the violation rate is at most 0.0199 with confidence 95 %" in answer.out
    assert "No counterexample was found to repair with, so there is nothing to repair" in answer.out
    assert not (tmp_path / "run" / "repaired.onnx").exists()


def test_of_several_properties_all_must_hold(dflare: Call, made: Path, tmp_path: Path):
    call = arguments(made, tmp_path / "run", "properties.method=none", claims=("low", "third"))
    assert dflare(*call).code == 1
    statements = read(tmp_path / "run")["before"]["statements"]
    assert [(one["property"], one["delta"]) for one in statements] == [("low", 0.025), ("third", 0.025)]


def test_properties_that_are_called_alike_are_told_apart(made: Path, tmp_path: Path):
    """Their names are those of exported files."""
    shutil.copy(made / "third.vnnlib", tmp_path / "low.vnnlib")
    files = [str(made / "low.vnnlib"), str(tmp_path / "low.vnnlib")]
    subject = open_subject(PropertySettings(model=str(made / "net.onnx"), files=files))
    assert [claim.name for claim in subject.claims] == ["low", "low-2"]


@pytest.mark.slow
def test_own_samples_take_the_place_of_drawn_ones(dflare: Call, made: Path, tmp_path: Path):
    """Of three rows one lies outside of the box and one is safe."""
    np.savez(tmp_path / "mine.npz", counterexamples=np.array([[0.99, 0.5], [0.5, 0.5], [2.0, 0.5]]), other=np.ones(1))
    answer = dflare(*arguments(made, tmp_path / "run", f"properties.counterexamples={tmp_path / 'mine.npz'}"))
    assert answer.code in (0, 1)
    report = read(tmp_path / "run")
    assert (report["samples"]["train"][0], report["samples"]["own"]) == (1, [True, False])
    assert report["after"]["repaired"]["n"] == 1
    assert report["after"]["unseen"]["n"] == 100


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("properties.methode=care", "did you mean properties.method?"),
        ("properties.method=hinges", "properties.method must be one of hinge, birdnn,"),
        ("properties.epsilon=0", "properties.epsilon must lie strictly between 0 and 1, got 0"),
        ("properties.epsilon=1e-12", "fresh samples, more than 1e+09"),
        ("properties.fresh=10", "properties.fresh must be at least 149"),
        ("properties.output=least", "properties.output must be one of min, max"),
        ("properties.domain=low", "properties.domain must be a .vnnlib file, low..high of all inputs, or 2 such sides"),
        ("properties.domain=1..0", "properties.domain must be"),
        ("properties.domain=-1e39..1e39", "properties.domain must be"),
        (f"properties.export={__file__}", "properties.export must be a folder, got the file"),
        ("properties.safe=nowhere.npz", "expected a file .npz, .npy, .h5, .hdf5 at nowhere.npz (properties.safe)"),
        ("another.onnx", "expected one network to repair"),
        ("nowhere.vnnlib", "expected a VNN-LIB file at nowhere.vnnlib, found none"),
        ("nowhere.yaml", "expected a configuration file, found none at nowhere.yaml"),
    ],
)
def test_bad_input_is_one_sentence(more: str, words: str, dflare: Call, made: Path, tmp_path: Path):
    assert_refused(dflare(*arguments(made, tmp_path / "run", more)), words)
    assert not (tmp_path / "run").exists()


def test_networks_and_properties_that_do_not_fit_are_refused(dflare: Call, made: Path, tmp_path: Path):
    run_dir = f"run_dir={tmp_path / 'run'}"
    wide = dflare("properties", str(made / "net.onnx"), str(made / "wide.vnnlib"), run_dir)
    assert_refused(wide, "has 2 inputs and 3 outputs, it is of 3 and 3")
    assert_refused(dflare("properties", "nowhere.onnx", str(made / "low.vnnlib"), run_dir), "found none")
    assert_refused(dflare("properties", str(made / "net.onnx"), run_dir), "a property (a .vnnlib file) is missing")
    assert_refused(dflare("properties", run_dir), "a network (an .onnx file) is missing")


def test_an_operator_that_is_no_layer_is_refused_by_name(dflare: Call, made: Path, tmp_path: Path):
    import onnx

    model = onnx.load(made / "net.onnx")
    for node in model.graph.node:
        node.op_type = "Softplus" if node.op_type == "Relu" else node.op_type
    onnx.save(model, tmp_path / "soft.onnx")
    answer = dflare("properties", str(tmp_path / "soft.onnx"), str(made / "low.vnnlib"), f"run_dir={tmp_path / 'run'}")
    assert_refused(answer, "(Softplus): expected linear layers with one activation each")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.ones((4, 3)), "must hold numbers (n, 2), got float64 (4, 3)"),
        (np.full((4, 2), np.nan), "must hold finite numbers of float32, got NaN"),
        (np.full((4, 2), 1e300), "must hold finite numbers of float32, got NaN, infinity or one beyond it"),
        (np.full((4, 2), 0.1), "properties.counterexamples must hold inputs that violate low: of 1 read, 1 lie in its"),
    ],
)
def test_own_samples_that_are_none_are_refused(array: np.ndarray, words: str, dflare: Call, made: Path, tmp_path: Path):
    np.save(tmp_path / "mine.npy", array)
    answer = dflare(*arguments(made, tmp_path / "run", f"properties.counterexamples={tmp_path / 'mine.npy'}"))
    assert_refused(answer, words)


def test_h5_without_h5py_says_what_to_install(
    dflare: Call, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "mine.h5").write_bytes(b"")
    answer = dflare(*arguments(made, tmp_path / "run", f"properties.safe={tmp_path / 'mine.h5'}"))
    assert_refused(answer, "needs h5py: pip install h5py")


def test_print_config_can_be_given_back(dflare: Call, made: Path, tmp_path: Path):
    call = arguments(made, tmp_path / "run", "seed=3")
    answer = dflare(*call, "--print-config")
    (tmp_path / "shown.yaml").write_text(answer.out)
    assert load_properties([str(tmp_path / "shown.yaml")]) == load_properties(call[1:])
    assert not (tmp_path / "run").exists()


def test_a_received_folder_reads_no_environment(dflare: Call, repaired: Path, tmp_path: Path):
    shutil.copytree(repaired, tmp_path / "run")
    with (tmp_path / "run" / "config.yaml").open("a") as file:
        file.write("seed: ${oc.env:HOME}\n")
    assert_refused(dflare("report", str(tmp_path / "run")), "expected")


def test_settings_name_the_methods_and_decisions_that_there_are():
    assert list(METHODS) == list(KNOWN_METHODS)
    assert list(DECISIONS) == list(KNOWN_DECISIONS)


@pytest.mark.parametrize("epsilon", [1e-4, 0.02, 0.5, 1 - 1e-9])
def test_as_many_samples_are_drawn_as_the_statement_needs(epsilon: float):
    asked = PropertySettings(files=["one.vnnlib", "two.vnnlib"], epsilon=epsilon, delta=0.01)
    assert needed_samples(asked) == samples_needed(epsilon, 0.005)


def test_wrong_settings_import_no_model_code(console: Call):
    answer = console("properties", "a.onnx", "b.vnnlib", "properties.delta=2", PYTHONPROFILEIMPORTTIME="1")
    assert answer.code == 2
    assert "properties.delta must lie strictly between 0 and 1, got 2" in answer.err
    assert not any(f" {name}\n" in answer.err for name in ("torch", "numpy", "onnx"))
