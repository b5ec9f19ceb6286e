"""Triggers of a run asked again in a fresh process: what is counted, what is written, and what is said of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import Tensor, nn

from dflare.errors import InputError
from dflare.models.interface import Interface
from dflare.shards import read_triggers
from experiments import verifying
from experiments.catalogue import pair_names
from experiments.config import Config
from experiments.fresh import Request, respond
from experiments.making import make_subject
from experiments.opening import Source, check_runtimes
from experiments.report_schema import report_schema
from experiments.report_verification import add_verification, doubts, verification_of, verification_rows, words
from experiments.settings import load_config
from experiments.subject import Subject
from experiments.verifying import figures, verify

pytestmark = pytest.mark.usefixtures("own_settings")

FILE = "verification.json"


def shown(toys: Any, folder: Path, **changes: Any) -> list[str]:
    """Settings of a run of seconds that verifies as by default; the toys' own do not."""
    return toys.settings(folder, verify__runtimes="[default]", **changes)


class Fixed(nn.Module):
    """The same scores whatever the image, and some noise."""

    def __init__(self, scores: tuple[float, ...], noise: float = 0.0) -> None:
        super().__init__()
        self.scores, self.noise = nn.Parameter(torch.tensor(scores)), noise

    def forward(self, images: Tensor) -> Tensor:
        scores = images.mean((1, 2, 3))[:, None] * 0 + self.scores
        return scores + self.noise * torch.rand_like(scores) if self.noise else scores


@pytest.fixture
def searched(finished: Path, tmp_path: Path) -> Path:
    """A run folder as `dflare search` leaves it."""
    folder = tmp_path / "searched"
    shutil.copytree(finished / "round-00" / "triggers", folder / "round-00" / "triggers")
    for name in ("config.yaml", "environment.json", "round-00/replay.json"):
        shutil.copyfile(finished / name, folder / name)
    return folder


@pytest.fixture
def triggers(searched: Path) -> Path:
    """The folder of found triggers, with its verification."""
    return searched / "round-00" / "triggers"


@pytest.fixture
def settings(toys: Any, tmp_path: Path) -> Config:
    return load_config(shown(toys, tmp_path / "run"))


@pytest.fixture
def subject(settings: Config) -> Subject:
    return make_subject(settings, progress=False)


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts a process now has forgotten what is known already."""
    monkeypatch.setattr(verifying, "_answers", lambda _: pytest.fail("a process was started"))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Requests are answered in this process, where they take no seconds, and kept in the list."""
    asked: list[Request] = []

    def answers(request: Request) -> Iterator[dict[str, Any]]:
        asked.append(request)
        yield from respond(request)

    monkeypatch.setattr(verifying, "_answers", answers)
    return asked


def count(folder: Path) -> int:
    found = read_triggers(folder)
    assert found is not None
    return len(found)


def sources(*files: Path, **interface: Any) -> list[dict[str, Any]]:
    """Original and compressed model as a request names them."""
    return [Source(str(path), Interface(**interface)).to_json() for path in files]


def ask(folder: Path, original: Path, compressed: Path, repeats: int = 2, **interface: Any) -> dict[str, Any]:
    """The figures of the default runtime for a pair of files, answered in this process."""
    shown = sources(original, compressed, **interface)
    *parts, end = respond(Request(str(folder), shown, "toy", ["default"], repeats, 1))
    assert set(end) == {"runtime", "seconds"}
    (counts,) = parts
    return figures(counts | end, repeats)


def values(found: dict[str, Any]) -> dict[str, float]:
    return {name: figure["value"] for name, figure in found.items() if isinstance(figure, dict)}


def test_a_search_ends_with_all_its_triggers_confirmed_by_a_fresh_process(
    searched: Path, triggers: Path, toys: Any, dflare: Callable[..., Any], no_process: None
):
    found, total = json.loads((triggers / FILE).read_text()), count(triggers)
    schema = report_schema()
    jsonschema.validate(found, {"$ref": "#/$defs/Verification", "$defs": schema["$defs"]})
    assert found["triggers"] == total > 0
    (default,) = found["runtimes"].values()
    assert values(default) == {
        "deviates": 1,
        "tied": 0,
        "agrees": 0,
        "original_changed": 0,
        "compressed_changed": 0,
    }
    assert default["deviates"]["n"] == total
    assert (default["nondeterministic"], default["repeats"]) == ([], 3)
    assert default["compressed"] == f"torch {torch.__version__}".partition("+")[0]
    said = dflare("search", *shown(toys, searched, loop__rounds=2)).out
    assert said.splitlines()[-1] == f"all {total} triggers deviate in a fresh process"


def test_a_pair_that_agrees_confirms_nothing(triggers: Path, toys: Any):
    found = ask(triggers, toys.model("original"), toys.model("original"))
    assert values(found)["agrees"] == 1
    assert values(found)["deviates"] == values(found)["tied"] == 0


def test_ties_are_counted_apart_from_deviations(triggers: Path, toys: Any):
    toys.save("tied", Fixed((3.0, 3.0, 0.0)))  # its label is class 0
    labels = read_triggers(triggers).outputs.labels[0]  # type: ignore[union-attr]
    found = values(ask(triggers, toys.model("original"), toys.model("tied")))
    shares = [float((labels == label).double().mean()) for label in range(3)]
    assert min(shares[1:]) > 0
    assert [found["agrees"], found["tied"], found["deviates"]] == pytest.approx(shares)


def test_a_model_that_answers_at_random_is_found_out_and_named(triggers: Path, toys: Any):
    toys.save("noisy", Fixed((3.0, 2.0, 1.0), noise=0.1))
    noisy, sure = toys.model("noisy"), toys.model("pruned")
    found = ask(triggers, noisy, sure)
    assert found["nondeterministic"] == ["original"]
    assert values(found)["original_changed"] == 1
    assert ask(triggers, sure, noisy)["nondeterministic"] == ["compressed"]
    assert ask(triggers, noisy, noisy)["nondeterministic"] == ["original", "compressed"]
    once = ask(triggers, noisy, sure, repeats=1)
    assert (once["nondeterministic"], values(once)["original_changed"]) == ([], None)  # not known


def test_the_models_are_shown_what_the_search_showed_them(triggers: Path, toys: Any):
    pair = toys.model("original"), toys.model("pruned")
    assert values(ask(triggers, *pair))["deviates"] == 1
    assert values(ask(triggers, *pair, mean=[0.4, 0.0, 0.0]))["deviates"] < 1


def test_what_is_verified_is_not_asked_again(
    triggers: Path, subject: Subject, settings: Config, toys: Any, no_process: None
):
    before = (triggers / FILE).read_bytes()
    verify(subject, settings, toys.model("pruned"), triggers, "")
    assert (triggers / FILE).read_bytes() == before


@pytest.mark.parametrize("change", ["model", "triggers", "repeats", "version"])
def test_what_has_changed_is_asked_again(
    change: str,
    triggers: Path,
    subject: Subject,
    settings: Config,
    toys: Any,
    here: list[Request],
    monkeypatch: pytest.MonkeyPatch,
):
    model = toys.model("original" if change == "model" else "pruned")
    if change == "triggers":
        next(triggers.glob("triggers-*.npz")).unlink()
    elif change == "repeats":
        settings.verify.repeats = 2
    elif change == "version":
        monkeypatch.setattr(verifying, "answered_by", lambda *_: "torch 3.0")
    verify(subject, settings, model, triggers, "")
    assert [request.runtimes for request in here] == [["default"]]
    found = verification_of(triggers)
    assert found is not None
    assert found["runtimes"]["default"]["agrees"]["value"] == (1 if change == "model" else 0)
    assert found["triggers"] == count(triggers)


def test_no_runtimes_are_no_verification(
    triggers: Path, subject: Subject, settings: Config, toys: Any, no_process: None
):
    (triggers / FILE).unlink()
    settings.verify.runtimes = []
    verify(subject, settings, toys.model("pruned"), triggers, "")
    assert not (triggers / FILE).exists()


def test_no_triggers_need_no_process(triggers: Path, subject: Subject, settings: Config, toys: Any, no_process: None):
    for path in triggers.iterdir():
        path.unlink()
    verify(subject, settings, toys.model("pruned"), triggers, "")
    found = verification_of(triggers)
    assert found is not None
    assert (found["triggers"], found["runtimes"]["default"]["deviates"]["value"]) == (0, None)
    assert words(found) == "no triggers were verified in a fresh process"


@pytest.fixture
def with_onnx(toys: Any, tmp_path: Path) -> Path:
    """The pruned toy as an ONNX file."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from dflare.models.exported import load_program

    weights = load_program(toys.model("pruned")).state_dict
    arrays = {"weight": weights["weight"].T.contiguous(), "bias": weights["bias"]}
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Flatten", ["images"], ["values"]),
            onnx.helper.make_node("Gemm", ["values", "weight", "bias"], ["scores"]),
        ],
        "linear",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["n", 3])],
        [onnx.numpy_helper.from_array(array.detach().numpy(), name) for name, array in arrays.items()],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "pruned.onnx")
    return tmp_path / "pruned.onnx"


def test_another_runtime_is_asked_beside_those_already_known(
    with_onnx: Path, triggers: Path, subject: Subject, settings: Config, here: list[Request]
):
    verify(subject, settings, with_onnx, triggers, "")
    settings.verify.runtimes = ["unoptimized", "default"]
    verify(subject, settings, with_onnx, triggers, "")
    assert [request.runtimes for request in here] == [["default"], ["unoptimized"]]
    found = verification_of(triggers)
    assert found is not None
    assert list(found["runtimes"]) == ["unoptimized", "default"]
    asked = found["runtimes"]["unoptimized"]
    assert asked["compressed"].startswith("onnxruntime ")
    assert asked["compressed"].endswith(" unoptimized")
    assert asked["original"].startswith("torch ")  # its format has no other kernels
    settings.verify.runtimes = ["default"]
    verify(subject, settings, with_onnx, triggers, "")
    assert len(here) == 2


def test_kernels_reach_the_runtime(with_onnx: Path, triggers: Path, toys: Any, monkeypatch: pytest.MonkeyPatch):
    from dflare.models import onnx_runtime

    optimised: list[bool] = []
    opener = onnx_runtime._open_session

    def recorded(path: Path, threads: int, optimize: bool, device: torch.device) -> Any:
        optimised.append(optimize)
        return opener(path, threads, optimize, device)

    monkeypatch.setattr(onnx_runtime, "_open_session", recorded)
    shown = sources(toys.model("original"), with_onnx)
    answers = list(respond(Request(str(triggers), shown, "toy", ["default", "unoptimized"], 1, 1)))
    assert [answer["runtime"] for answer in answers] == ["default", "default", "unoptimized", "unoptimized"]
    assert optimised == [True, False]


def test_a_pair_in_memory_is_opened_by_its_name(triggers: Path, toys: Any, monkeypatch: pytest.MonkeyPatch):
    from dflare.models.opening import open_classifier

    opened: list[tuple[str, bool]] = []

    def open_imagenet_pair(name: str, download: bool) -> Any:
        opened.append((name, download))
        return open_classifier(toys.model("original")), open_classifier(toys.model("pruned"))

    monkeypatch.setattr("experiments.imagenet.open_imagenet_pair", open_imagenet_pair)
    name = "imagenet-resnet50-int8"
    counts, _ = respond(Request(str(triggers), [], name, ["default"], 1, 1))
    assert opened == [(name, False)]  # the search has fetched the weights
    assert counts["deviates"] == counts["asked"] == count(triggers)


@pytest.mark.parametrize(
    ("runtime", "files", "allowed"),
    [
        ("unoptimized", ("a.onnx", "b.onnx"), True),
        ("unoptimized", ("a.exported", "b.onnx"), True),
        ("builtin", ("a.onnx", "b.litert"), True),
        ("unoptimized", ("a.exported", "b.exported"), False),
        ("reference", ("a.onnx", "b.onnx"), False),
        ("unoptimized", (), False),
        ("default", (), True),
    ],
)
def test_a_runtime_must_be_one_of_either_file(runtime: str, files: tuple[str, ...], allowed: bool):
    formats = [name.split(".")[1] for name in files]
    if allowed:
        check_runtimes(["default", runtime], formats)
        return
    with pytest.raises(InputError, match=f"verify.runtimes must be of default.*got '{runtime}'"):
        check_runtimes(["default", runtime], formats)


@pytest.mark.parametrize("name", pair_names())
def test_an_unknown_runtime_is_refused_before_a_pair_is_trained_or_data_read(name: str, tmp_path: Path):
    settings = load_config([f"pair.name={name}", "verify.runtimes=[best]", f"data.root={tmp_path / 'none'}"])
    with pytest.raises(InputError, match=r"verify.runtimes must be of default.*got 'best'"):
        make_subject(settings, progress=False)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("verify.runtimes=[unoptimized]", "verify.runtimes must be of default for a pair .pt2, got 'unoptimized'"),
        ("verify.runtimes=[default,default]", "verify.runtimes names default twice"),
        ("verify.repeats=0", "verify.repeats must be in [1, 1000], got 0"),
    ],
)
def test_wrong_settings_are_refused_at_the_start(
    argument: str, said: str, dflare: Callable[..., Any], toys: Any, tmp_path: Path
):
    answer = dflare("search", *shown(toys, tmp_path / "run"), argument)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err
    assert not (tmp_path / "run").exists()


def test_a_process_that_ends_early_is_told_in_one_sentence(
    triggers: Path, subject: Subject, settings: Config, toys: Any, monkeypatch: pytest.MonkeyPatch
):
    (triggers / FILE).unlink()
    monkeypatch.setattr(verifying.sys, "executable", shutil.which("false"))
    with pytest.raises(InputError, match=r"ended with code 1 before it was done: it said nothing$"):
        verify(subject, settings, toys.model("pruned"), triggers, "")
    assert not (triggers / FILE).exists()


@pytest.mark.slow
def test_what_is_wrong_in_the_process_is_said_here_and_leaves_no_process(
    triggers: Path, toys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    started: list[subprocess.Popen[str]] = []

    class Recorded(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            started.append(self)

    monkeypatch.setattr(verifying.subprocess, "Popen", Recorded)
    (tmp_path / "text.pt2").write_text("this is no model")
    shown = sources(toys.model("original"), tmp_path / "text.pt2")
    with pytest.raises(InputError, match=r"text\.pt2, but it looks like text"):
        next(verifying._answers(Request(str(triggers), shown, "toy", ["default"], 1, 1)))
    (process,) = started
    assert process.poll() is not None


@pytest.mark.slow
def test_a_model_that_prints_spoils_no_answer(triggers: Path, toys: Any):
    """What is written to the process's own standard output does not stand among the answers."""
    shown = sources(toys.model("original"), toys.model("pruned"))
    request = json.dumps(asdict(Request(str(triggers), shown, "toy", ["default"], 1, 1)))
    code = (
        "import os, sys, experiments.fresh as f; r = f.respond\n"
        "def loud(request):\n    os.write(1, b'noise'); print('noise', flush=True); yield from r(request)\n"
        "f.respond = loud; sys.exit(f.main())"
    )
    ran = subprocess.run([sys.executable, "-c", code], input=request, capture_output=True, text=True, check=True)
    assert [json.loads(line)["runtime"] for line in ran.stdout.splitlines()] == ["default", "default"]
    assert "noise" in ran.stderr


@pytest.mark.slow
def test_an_interrupt_while_asking_leaves_nothing_and_the_next_run_asks(
    start: Callable[..., Any], toys: Any, searched: Path, triggers: Path
):
    folder, verification = searched, triggers / FILE
    before = json.loads(verification.read_text())
    for signal_sent in (signal.SIGINT, signal.SIGKILL):
        verification.unlink()
        process = start("search", *shown(toys, folder), "verify.repeats=200")
        child = wait_for_child(process)
        process.send_signal(signal_sent)
        _, err = process.communicate(timeout=60)
        assert process.returncode == (130 if signal_sent == signal.SIGINT else -signal.SIGKILL)
        assert "Traceback" not in err
        assert not verification.exists()
        wait_until_gone(child)
        process = start("search", *shown(toys, folder))
        assert process.communicate(timeout=120)[1] == ""
        after = json.loads(verification.read_text())
        after["runtimes"]["default"]["seconds"] = before["runtimes"]["default"]["seconds"]
        assert after == before
    assert list(folder.rglob(".*.tmp*")) == []


def wait_for_child(process: Any) -> int:
    """The process that asks, as soon as it is there."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_bytes().split(b"\0")
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            if parent == process.pid and b"experiments.fresh" in words:
                return int(path.name)
        time.sleep(0.01)
    return pytest.fail("no process was started")


def wait_until_gone(child: int) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            os.kill(child, 0)
            if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except (OSError, ProcessLookupError):
            return
        time.sleep(0.05)
    pytest.fail("the process is still there")


def runtime(deviates: int, tied: int = 0, changed: tuple[int, int] = (0, 0), kernels: str = "") -> dict[str, Any]:
    """An entry of 412 triggers."""
    counts = {"asked": 412, "deviates": deviates, "tied": tied, "agrees": 412 - deviates - tied, "seconds": 1.5}
    counts |= {"original_changed": changed[0], "compressed_changed": changed[1]}
    said = {"original": "torch 2.15.0", "compressed": f"onnxruntime 1.31.1{kernels}", "fingerprint": "f"}
    return {**said, **figures(counts, 3)}


@pytest.mark.parametrize(
    ("runtimes", "sentence"),
    [
        ({"default": runtime(412)}, "all 412 triggers deviate in a fresh process"),
        ({"default": runtime(410, 2)}, "410 of 412 triggers deviate in a fresh process (2 tied)"),
        (
            {"default": runtime(412), "unoptimized": runtime(371, kernels=" unoptimized")},
            "all 412 triggers deviate in a fresh process; with onnxruntime 1.31.1 unoptimized 371 of 412",
        ),
        (
            {"unoptimized": runtime(412, kernels=" unoptimized")},
            "all 412 triggers deviate in a fresh process with onnxruntime 1.31.1 unoptimized",
        ),
        (
            {"unoptimized": runtime(0, 3, kernels=" unoptimized"), "default": runtime(412)},
            "0 of 412 triggers deviate in a fresh process with onnxruntime 1.31.1 unoptimized (3 tied); "
            "by default 412 of 412",
        ),
        (
            {"default": runtime(412, changed=(0, 12))},
            "all 412 triggers deviate in a fresh process. The compressed model is not deterministic: asked the same "
            "image again, it changed its scores on 12 of 412 (default)",
        ),
    ],
)
def test_the_words_say_what_was_found(runtimes: dict[str, Any], sentence: str):
    assert words({"triggers": 412, "runtimes": runtimes}) == sentence


def test_the_summary_of_a_loop_hears_of_doubts_only():
    def entry(number: int, default: dict[str, Any]) -> dict[str, Any]:
        return {
            "round": number,
            "search": {"verification": {"triggers": 412, "runtimes": {"default": default, "x": runtime(3)}}},
        }

    assert doubts([entry(0, runtime(412)), {"round": 1, "search": None}]) == []
    (unconfirmed, random) = doubts([entry(0, runtime(411)), entry(1, runtime(412, changed=(1, 0)))])
    assert unconfirmed.startswith("Round 0: 411 of 412 triggers deviate")
    assert "The original model is not deterministic" in random


def test_the_report_has_the_verification_in_its_round_and_a_table(triggers: Path):
    entry = add_verification({"round": 3, "search": None}, triggers.parent)
    (row,) = verification_rows([entry])
    total = count(triggers)
    assert row[0] == "round 3, default"
    assert row[3] == str(total)
    assert row[4].startswith("100.0 % [")
    assert row[-1] == "0 %"
    assert entry["search"]["before"] is None
    (triggers / FILE).write_text('{"triggers": 1}')
    with pytest.raises(InputError, match=r"triggers/verification.json.runtimes must be object, got nothing"):
        add_verification({"round": 3, "search": None}, triggers.parent)


@pytest.mark.slow
def test_a_finished_run_is_asked_by_a_runtime_named_afterwards(
    finished: Path, toys: Any, dflare: Callable[..., Any], tmp_path: Path, here: list[Request]
):
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    report = json.loads((folder / "report.json").read_text())
    assert [entry["search"]["verification"]["runtimes"].keys() for entry in report["rounds"]] == [{"default"}] * 2
    assert report["headline"]["search"]["verification"] is None
    assert "## Verification" in (folder / "report.md").read_text()
    before = (folder / "rounds.jsonl").read_bytes()
    (folder / "round-00" / "triggers" / FILE).unlink()  # as of an earlier version
    assert dflare("loop", *shown(toys, folder, loop__rounds=2), "verify.repeats=2").code == 0
    assert [Path(request.folder).parent.name for request in here] == ["round-00", "round-01"]
    assert here[1].models[1]["where"].endswith("round-00/model/model.pt2")
    assert (folder / "rounds.jsonl").read_bytes() == before
    report = json.loads((folder / "report.json").read_text())
    jsonschema.validate(report, report_schema())
    for entry in report["rounds"]:
        default = entry["search"]["verification"]["runtimes"]["default"]
        assert (default["repeats"], default["deviates"]["value"]) == (2, 1)
