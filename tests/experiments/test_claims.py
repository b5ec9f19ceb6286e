"""Verifiers on the command line: verdicts on properties and on agreement of a pair, and claims for others."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from PIL import Image

from experiments.main import main
from repair.properties.dense import Activation, DenseNetwork
from repair.properties.vnnlib import read_vnnlib
from repair.properties.writing import save_network
from tests.repair.properties.small_classifier import save_classifier

BRIEF = ("properties.epsilon=0.02", "properties.delta=0.05", "properties.method=none")


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """y = |x| of one input, with properties on [-1, 1]: that y stays below 1.01 (true) and below 0.99 (false)."""
    first, last = torch.nn.Linear(1, 2), torch.nn.Linear(2, 1)
    for layer, weight in ((first, [[1.0], [-1.0]]), (last, [[1.0, 1.0]])):
        layer.weight, layer.bias = (
            torch.nn.Parameter(torch.tensor(weight)),
            torch.nn.Parameter(torch.zeros(len(weight))),
        )
    save_network(DenseNetwork([first, last], [Activation("Relu"), Activation()]), tmp_path / "net.onnx")
    for name, least in (("holds", 1.01), ("fails", 0.99)):
        text = "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= X_0 1.0))(assert (>= X_0 -1.0))"
        (tmp_path / f"{name}.vnnlib").write_text(f"{text}(assert (>= Y_0 {least}))", encoding="utf-8")
    return tmp_path / "net.onnx"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six grey images of 4 x 4 pixels in two classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4), np.uint8)
    for index, image in enumerate(pixels):
        folder = tmp_path / "photos" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    return tmp_path / "photos"


def test_verdicts_of_both_properties_stand_in_the_report(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("highspy")
    files = [str(network), *(str(tmp_path / f"{name}.vnnlib") for name in ("holds", "fails"))]
    run = tmp_path / "run"
    code = main(["properties", *files, *BRIEF, "properties.verifier=highs", f"run_dir={run}"])
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    verdicts = report["verification"]["before"]["verdicts"]
    assert [one["outcome"] for one in verdicts] == ["certified", "falsified"]
    assert abs(verdicts[1]["counterexample"][0]) >= 0.99
    assert "holds, unrepaired: certified in" in capsys.readouterr().out
    assert code == 0  # 1 % of violations are within the 2 % asked for


def test_a_verifier_may_be_asked_for_later_in_the_same_folder(network: Path, tmp_path: Path):
    pytest.importorskip("highspy")
    call = ["properties", str(network), str(tmp_path / "holds.vnnlib"), *BRIEF, f"run_dir={tmp_path / 'run'}"]
    verdicts = tmp_path / "run/round-00/verified-before.json"
    assert main(call) == 0
    assert not verdicts.exists()
    assert main([*call, "properties.verifier=highs"]) == 0
    kept = verdicts.stat().st_mtime_ns
    assert main([*call, "properties.verifier=highs"]) == 0
    assert verdicts.stat().st_mtime_ns == kept  # the same question is not asked again
    assert main([*call, "properties.verifier=highs", "properties.verifier_seconds=30"]) == 0
    assert json.loads(verdicts.read_text(encoding="utf-8"))["how"]["seconds"] == 30
    assert main([*call, "properties.delta=0.04"]) == 2


def test_exported_claims_are_read_back_without_any_verifier(network: Path, tmp_path: Path):
    main(["properties", str(network), str(tmp_path / "fails.vnnlib"), *BRIEF, f"properties.export={tmp_path / 'out'}",
          f"run_dir={tmp_path / 'run'}"])  # fmt: skip
    assert read_vnnlib(tmp_path / "out/before/fails.vnnlib").cases[0].unsafe[0].bounds.tolist() == [-0.99]
    assert (tmp_path / "out/before/fails.onnx").read_bytes()
    assert json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8"))["verification"] == {}


@pytest.mark.slow
@pytest.mark.parametrize(("order", "outcome", "code"), [((0, 1, 2), "certified", 0), ((1, 2, 0), "falsified", 1)])
def test_agreement_of_a_pair_around_judge_images_is_decided(
    order: tuple[int, ...], outcome: str, code: int, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("highspy")
    pair = [save_classifier(tmp_path / "a.onnx"), save_classifier(tmp_path / "b.onnx", order=order)]
    call = ["properties", "agreement.seeds=2", "agreement.radius=0.001", f"agreement.export={tmp_path / 'out'}"]
    call += [f"pair.original={pair[0]}", f"pair.compressed={pair[1]}", f"data.root={photos}", "data.name=imagefolder"]
    call += ["split.train=0.2", "split.validate=0.2", "split.judge=0.6", "preflight.min_agreement=0.0"]
    call += [f"run_dir={tmp_path / 'run'}"]
    assert main(call) == code
    found = json.loads((tmp_path / "run/agreement.json").read_text(encoding="utf-8"))
    assert [one["outcome"] for one in found["verdicts"]] == [outcome] * 2
    assert f"2 {outcome}" in capsys.readouterr().out
    assert read_vnnlib(tmp_path / "out/agreement-1.vnnlib").outputs == 6


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("agreement.radius=0", "agreement.radius must be in [1e-06, 1], got 0"),
        ("agreement.verifier=marabou", "agreement.verifier must be one of highs, none, got 'marabou'"),
        ("agreement.seed=1", "did you mean agreement.seeds"),
        ("properties.verifier=marabou", "properties.verifier must be one of highs, none, got 'marabou'"),
    ],
)
def test_bad_settings_are_one_sentence(
    argument: str, words: str, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    files = [] if argument.startswith("agreement") else [str(network), str(tmp_path / "fails.vnnlib")]
    assert main(["properties", *files, argument]) == 2
    assert words in capsys.readouterr().err
