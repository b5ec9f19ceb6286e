"""Verdicts on claims whose truth is known on paper, and the word of the files against the verifier's."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dflare.errors import InputError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from repair.properties.certify import Outcome, Verdict, certify  # noqa: E402
from repair.properties.dense import Activation, DenseNetwork  # noqa: E402
from repair.properties.products import ModelFile  # noqa: E402
from repair.properties.property import Box, Case, Polytope, Property  # noqa: E402
from repair.properties.verifiable import Claim, agreement_claim, property_claim, robustness_claim  # noqa: E402
from repair.properties.writing import save_network  # noqa: E402
from tests.repair.properties.small_classifier import save_classifier  # noqa: E402

IMAGE = torch.arange(16, dtype=torch.uint8).reshape(1, 4, 4) * 16


def network(layers: list[tuple[list, list]], activation: Activation) -> DenseNetwork:
    """Linear layers of these weights and biases; the last has no activation."""
    made = []
    for weight, bias in layers:
        linear = nn.Linear(len(weight[0]), len(weight))
        linear.weight, linear.bias = nn.Parameter(torch.tensor(weight)), nn.Parameter(torch.tensor(bias))
        made.append(linear)
    return DenseNetwork(made, [activation] * (len(made) - 1) + [Activation()])


def tent(path: Path) -> Path:
    """y = |x0| + |x1| - |x0 - x1|: at most 2 on [-1, 1]^2, at (1, 1) and (-1, -1)."""
    first = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]
    last = [[1.0, 1.0, 1.0, 1.0, -1.0, -1.0]]
    save_network(network([(first, [0.0] * 6), (last, [0.0])], Activation("Relu")), path)
    return path


def at_least(value: float, inputs: int = 2) -> Property:
    """Unsafe where y >= value, on [-1, 1]^inputs."""
    ends = torch.ones(inputs, dtype=torch.float64)
    unsafe = Polytope(torch.tensor([[-1.0]]).double(), torch.tensor([-value]).double())
    return Property(f"at least {value}", inputs, 1, (Case(Box(-ends, ends), (unsafe,)),))


def decide(claim: Claim, **settings: float) -> Verdict:
    pytest.importorskip("highspy")
    return certify(claim, torch.Generator().manual_seed(0), **settings)


def test_a_claim_just_above_the_exact_maximum_is_certified(tmp_path: Path):
    verdict = decide(property_claim(tent(tmp_path / "tent.onnx"), at_least(2.001)))
    assert (verdict.outcome, verdict.counterexample) == (Outcome.certified, None)
    assert "real arithmetic" in verdict.why


def test_a_claim_just_below_the_exact_maximum_is_falsified(tmp_path: Path):
    claim = property_claim(tent(tmp_path / "tent.onnx"), at_least(1.999))
    verdict = decide(claim)
    assert verdict.outcome is Outcome.falsified
    assert claim.confirm(verdict.counterexample[None]).item()


def test_the_verifier_falsifies_where_no_attack_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("repair.properties.certify._attacked", lambda *_: (None, 0))
    verdict = decide(property_claim(tent(tmp_path / "tent.onnx"), at_least(1.999)))
    assert verdict.outcome is Outcome.falsified
    assert "HiGHS" in verdict.why


def test_a_margin_asks_for_more_than_the_property(tmp_path: Path):
    claim = property_claim(tent(tmp_path / "tent.onnx"), at_least(2.1))
    assert decide(claim, margin=0.05).outcome is Outcome.certified
    verdict = decide(claim, margin=0.2)
    assert verdict.outcome is Outcome.unknown
    assert "margin" in verdict.why


@pytest.mark.parametrize(("activation", "slope"), [("Relu", 0.0), ("LeakyRelu", 0.1)])
@pytest.mark.parametrize("seed", range(3))
def test_the_exact_maximum_of_random_networks_divides_certified_from_falsified(
    activation: str, slope: float, seed: int, tmp_path: Path
):
    """In one input a network is piecewise linear, so that its maximum on a fine grid is exact up to the grid."""
    rng = np.random.default_rng(seed)
    sizes = [(6, 1), (5, 6), (1, 5)]
    layers = [(rng.standard_normal(size).tolist(), rng.standard_normal(size[0]).tolist()) for size in sizes]
    made = network(layers, Activation(activation, (("alpha", slope),) if slope else ()))
    with torch.no_grad():
        greatest = float(made(torch.linspace(-1, 1, 20_001)[:, None]).max())
    save_network(made, tmp_path / "net.onnx")
    above, below = (decide(property_claim(tmp_path / "net.onnx", at_least(greatest + d, 1))) for d in (0.05, -0.05))
    assert (above.outcome, below.outcome) == (Outcome.certified, Outcome.falsified)


def test_a_network_that_bends_otherwise_is_unknown_and_the_reason_is_said(tmp_path: Path):
    save_network(network([([[1.0]], [0.0]), ([[1.0]], [0.0])], Activation("Tanh")), tmp_path / "tanh.onnx")
    verdict = decide(property_claim(tmp_path / "tanh.onnx", at_least(2.0, 1)))
    assert verdict.outcome is Outcome.unknown
    assert "neither affine nor a rectifier" in verdict.why


def test_a_pair_of_a_network_with_itself_agrees(tmp_path: Path):
    file = ModelFile(save_classifier(tmp_path / "same.onnx"))
    for radius in (0.01, 0.05):
        assert decide(agreement_claim(file, file, IMAGE, radius, "itself")).outcome is Outcome.certified


def test_a_pair_with_permuted_outputs_is_falsified_and_the_counterexample_re_executes(tmp_path: Path):
    one = ModelFile(save_classifier(tmp_path / "one.onnx"))
    other = ModelFile(save_classifier(tmp_path / "other.onnx", order=(1, 2, 0)))
    verdict = decide(agreement_claim(one, other, IMAGE, 0.02, "permuted"))
    assert verdict.outcome is Outcome.falsified
    image = verdict.counterexample.reshape(1, 1, 4, 4)
    assert one.open()(image).argmax() != other.open()(image).argmax()
    assert float((image - IMAGE[None] / 255).abs().max()) <= 0.02


def test_a_robust_image_is_certified_and_a_wrong_label_falsified(tmp_path: Path):
    file = ModelFile(save_classifier(tmp_path / "net.onnx"))
    right = int(file.open()(IMAGE[None] / 255).argmax())
    assert decide(robustness_claim(file, IMAGE, 0.01, "robust")).outcome is Outcome.certified
    wrong = robustness_claim(file, IMAGE, 0.01, "wrong", label=(right + 1) % 3)
    assert decide(wrong).outcome is Outcome.falsified


def test_a_counterexample_that_the_files_do_not_show_leaves_the_claim_unknown(tmp_path: Path):
    claim = property_claim(tent(tmp_path / "tent.onnx"), at_least(1.0))
    claim = replace(claim, confirm=lambda inputs: torch.zeros(len(inputs), dtype=torch.bool))
    verdict = decide(claim)
    assert (verdict.outcome, verdict.counterexample) == (Outcome.unknown, None)
    assert "does not re-execute" in verdict.why


def test_an_attack_that_the_files_do_not_confirm_forbids_a_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("repair.properties.certify._attacked", lambda *_: (None, 1))
    verdict = decide(property_claim(tent(tmp_path / "tent.onnx"), at_least(2.1)))
    assert verdict.outcome is Outcome.unknown
    assert "1 counterexamples of the attack do not re-execute on the files" in verdict.why


def test_a_limit_of_no_time_leaves_the_claim_unknown(tmp_path: Path):
    verdict = decide(property_claim(tent(tmp_path / "tent.onnx"), at_least(2.001)), seconds=1e-9)
    assert verdict.outcome is Outcome.unknown
    assert "time was over" in verdict.why


def test_no_verifier_can_falsify_but_not_certify(tmp_path: Path):
    path = tent(tmp_path / "tent.onnx")
    ends = [certify(property_claim(path, at_least(v)), torch.Generator(), verifier="none").outcome for v in (1.9, 2.1)]
    assert ends == [Outcome.falsified, Outcome.unknown]


def test_a_missing_solver_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "highspy", None)
    monkeypatch.delitem(sys.modules, "repair.properties.mixed_integer", raising=False)
    claim = property_claim(tent(tmp_path / "tent.onnx"), at_least(2.1))
    with pytest.raises(InputError, match=r"needs highspy: pip install \"dflare\[verification\]\""):
        certify(claim, torch.Generator().manual_seed(0))
