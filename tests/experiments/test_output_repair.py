"""Output repair in a run: heads behind models that stay closed, searched and judged like any repaired model."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.files import read_json
from experiments.opening import Source
from experiments.weighing import model_bytes, model_hash, model_payload
from repair.outputs.head import IDENTITY
from repair.outputs.head_file import load_head, save_head

CODE = """
    import torch

    def build():
        return lambda images: (images.flatten(1)[:, None] * WEIGHT).sum(-1) + BIAS

    kept = torch.rand(3, 192, generator=torch.Generator().manual_seed(0)) < 0.67
    WEIGHT = torch.eye(3).repeat_interleave(64, 1) * 20 / 64 * kept
    WEIGHT, BIAS = WEIGHT * 20 / WEIGHT.sum(-1, keepdim=True), torch.tensor([0.45, 0.0, -0.15])
"""
"""The toy pair's compressed model as a callable."""


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of a compressed model that is a function in the current folder."""
    monkeypatch.chdir(tmp_path)
    lines = [line.removeprefix("    ") for line in CODE.splitlines()]
    Path("closed_networks.py").write_text("\n".join(lines))
    return {"pair__compressed": "closed_networks:build", "verify__runtimes": "[default]"}


def test_a_source_with_a_head_goes_through_json_and_weighs_both(toys: Any, tmp_path: Path):
    head = tmp_path / "head.npz"
    save_head(IDENTITY, head)
    plain = Source(str(toys.model("pruned")))
    both = plain.at(head)
    assert Source.from_json(json.loads(json.dumps(both.to_json()))) == both
    assert both.at(head) == both
    assert both.at(toys.model("original")).where == str(toys.model("original"))
    assert model_bytes(both) == toys.model("pruned").stat().st_size + head.stat().st_size
    assert model_payload(both) == model_payload(plain)  # a head without a number
    assert model_hash(both) != model_hash(plain)
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(both.open()(images), plain.open()(images))


@pytest.mark.parametrize("recipe", ["imitation", "output-tree"])
def test_what_cannot_be_repaired_is_said_before_any_work(
    recipe: str, closed: dict[str, Any], toys: Any, dflare: Callable[..., Any]
):
    more = {"search__strategy": "gradient"} if recipe == "output-tree" else {}
    answer = dflare("loop", "--allow-code", *toys.settings(Path("run"), repair__recipe=recipe, **closed, **more))
    assert answer.code == 2
    words = "cannot see through the head" if more else "repair its answers by repair.recipe=output-mlp, output-svm"
    assert words in answer.err
    assert not (Path("run") / "round-00").exists()


def test_an_opaque_onnx_file_is_said_to_be_repairable_at_its_answers(
    toys: Any, dflare: Callable[..., Any], tmp_path: Path
):
    onnx = pytest.importorskip("onnx")
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", *shape])
        for name, shape in (("images", [3, 8, 8]), ("scores", [3]))
    ]
    nodes = [
        onnx.helper.make_node("Einsum", ["images"], ["sums"], equation="nchw->nc"),
        onnx.helper.make_node("Hardmax", ["sums"], ["scores"], axis=1),
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "opaque", ends[:1], ends[1:]), opset_imports=[onnx.helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    onnx.save(model, tmp_path / "opaque.onnx")
    settings = toys.settings(tmp_path / "run", pair__compressed=tmp_path / "opaque.onnx")
    answer = dflare("loop", *settings)
    assert (answer.code, "its answers can be repaired instead, by repair.recipe=" in answer.err) == (2, True), (
        answer.err
    )


def test_a_misspelt_output_recipe_is_told_its_name(toys: Any, dflare: Callable[..., Any], tmp_path: Path):
    answer = dflare("loop", *toys.settings(tmp_path / "run", repair__recipe="output-tre"))
    assert (answer.code, "did you mean output-tree?" in answer.err) == (2, True)


@pytest.mark.slow
def test_a_function_is_repaired_at_its_outputs_and_judged_with_its_head(
    closed: dict[str, Any], toys: Any, dflare: Callable[..., Any]
):
    settings = toys.settings(Path("run"), repair__recipe="output-shift", loop__rounds=2, **closed)
    answer = dflare("loop", "--allow-code", *settings)
    assert answer.code in (0, 1), answer.err
    report = json.loads(Path("run/report.json").read_text())
    first = report["rounds"][0]
    assert first["repair"]["probe_after"]["value"] < first["repair"]["probe_before"]["value"]
    assert first["repair"]["fixed"]["value"] >= first["repair"]["drawdown"]["value"]
    assert first["cost"]["bytes_after"] is None  # of code nothing is known
    for name in ("model", "placebo", "noop"):
        folder = Path("run/round-00") / name
        training = read_json(folder / "training.json")
        assert training["head"]["bytes"] == (folder / "head.npz").stat().st_size
        assert training["head"]["microseconds"] > 0
        assert (folder / "head.onnx").exists() == (training["head"]["onnx_bytes"] is not None)
    assert load_head(Path("run/round-00/noop/head.npz")).kind == "identity"
    assert first["noop"]["repair"]["generalization"]["value"] == 0
    verified = read_json(Path("run/round-01/triggers/verification.json"))["runtimes"]["default"]
    assert verified["deviates"]["value"] == 1  # in another process, through the head of the first round


@pytest.mark.slow
def test_an_interrupted_output_repair_ends_as_an_uninterrupted_one(
    closed: dict[str, Any], toys: Any, dflare: Callable[..., Any]
):
    heads = []
    for name in ("whole", "parts"):
        settings = toys.settings(Path(name), repair__recipe="output-tree", **closed)
        verbs = ("loop",) if name == "whole" else ("search", "repair", "repair", "retest")
        for verb in verbs:
            assert dflare(verb, "--allow-code", *settings).code in (0, 1)
        heads.append([(Path(name) / "round-00" / kind / "head.npz").read_bytes() for kind in ("model", "placebo")])
    assert heads[0] == heads[1]


class Opaque(nn.Module):
    """A program that only TorchScript can open."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1)[:, None] * self.weight).sum(-1) + self.bias


@pytest.mark.slow
def test_a_file_that_stays_closed_is_repaired_with_its_bytes_and_those_of_the_head(
    toys: Any, dflare: Callable[..., Any], tmp_path: Path
):
    weight, bias = (tensor.detach().clone() for tensor in torch.export.load(toys.model("pruned")).state_dict.values())
    path = tmp_path / "closed.pt"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)  # torch deprecates all of it
        torch.jit.trace(Opaque(weight, bias).eval(), torch.zeros(1, 3, 8, 8)).save(str(path))
    settings = toys.settings(tmp_path / "run", pair__compressed=path, repair__recipe="output-svm")
    answer = dflare("loop", "--allow-code", *settings)
    assert answer.code in (0, 1), answer.err
    cost = json.loads((tmp_path / "run" / "report.json").read_text())["rounds"][0]["cost"]
    head = tmp_path / "run" / "round-00" / "model" / "head.npz"
    assert cost["bytes_before"] == path.stat().st_size
    assert cost["bytes_after"] == path.stat().st_size + head.stat().st_size
    assert cost["payload_after"] is None
