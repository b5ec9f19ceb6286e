"""Pairs of one's own models: of any kind, shown what they want to see, from the search to the repair."""

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dflare.classifiers import ask
from dflare.models.opening import open_classifier
from dflare.shards import read_endings, read_triggers
from dflare.triggers import Side

CODE = """
    import torch

    def build():
        return Network()

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(192, 3)

        def forward(self, images):
            # row by row, so that no batch rounds differently
            return (images.flatten(1)[:, None] * self.linear.weight).sum(-1) + self.linear.bias

    def number():
        return 7
"""


class Demanding(nn.Module):
    """The toy model for images in another range, with channels last and in another order, and probabilities."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, values: Tensor) -> Tensor:
        images = (values.permute(0, 3, 1, 2).flip(1) * 50 + 100) / 255
        return ((images.flatten(1)[:, None] * self.weight).sum(-1) + self.bias).softmax(-1)


DEMANDS = {
    "models__both__range": "[0,255]",
    "models__both__mean": "[100]",
    "models__both__std": "[50,50,50]",
    "models__both__channels": "bgr",
}
"""Layout and softmax can be seen in the file."""


def weights(toys: Any, name: str) -> list[Tensor]:
    """Weight (classes, values) and bias of a toy model."""
    return [tensor.detach().clone() for tensor in torch.export.load(toys.model(name)).state_dict.values()]


@pytest.fixture
def demanding(toys: Any) -> dict[str, Any]:
    """Settings of the toy pair in other clothes."""
    for name in ("original", "pruned"):
        if not toys.model(f"demanding-{name}").exists():
            toys.save(f"demanding-{name}", Demanding(*weights(toys, name)), (8, 8, 3))
    return {
        "pair__original": toys.model("demanding-original"),
        "pair__compressed": toys.model("demanding-pruned"),
        **DEMANDS,
    }


def found(folder: Path) -> Any:
    """Seeds and images of the triggers of the first round."""
    triggers = read_triggers(folder / "round-00" / "triggers")
    assert triggers is not None
    return triggers


@pytest.mark.slow
def test_a_pair_in_other_clothes_is_searched_like_the_plain_one(
    demanding: dict[str, Any], toys: Any, dflare: Callable[..., Any], tmp_path: Path
):
    for name, more in (("plain", {}), ("demanding", demanding)):
        answer = dflare("search", *toys.settings(tmp_path / name, search__strategy="boundary", **more))
        assert answer.code == 0, answer.err
    plain, other = (read_endings(tmp_path / name / "round-00" / "triggers") for name in ("plain", "demanding"))
    same = (plain.endings == other.endings) & ((plain.queries - other.queries).abs() <= 1)
    assert bool((plain.seeds == other.seeds).all())
    assert float(same.double().mean()) > 0.7  # the models' own rounding is left
    triggers = found(tmp_path / "demanding")
    shares = triggers.outputs.probabilities[0].sum(-1)
    torch.testing.assert_close(shares, torch.ones_like(shares))


@pytest.mark.slow
def test_what_a_model_wants_to_see_is_trained_through_and_none_of_its_file(
    demanding: dict[str, Any], toys: Any, dflare: Callable[..., Any], tmp_path: Path
):
    scores = []
    for name, more in (("plain", {}), ("demanding", demanding)):
        assert dflare("search", *toys.settings(tmp_path / name, repair__steps=60, **more)).code == 0
        answer = dflare("repair", *toys.settings(tmp_path / name, repair__steps=60, **more))
        assert answer.code == 0, answer.err
        training = json.loads((tmp_path / name / "round-00" / "model" / "training.json").read_text())
        scores.append(training["score"])
    assert min(scores) > 0.6
    assert scores[1] == pytest.approx(scores[0], abs=0.1)
    repaired = open_classifier(tmp_path / "demanding" / "round-00" / "model" / "model.pt2")
    assert repaired.takes.layout == "nhwc"
    assert repaired.takes.scores == "probabilities"


@pytest.fixture
def code(toys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A module in the current folder that builds the original, whose weights lie in a file."""
    monkeypatch.chdir(tmp_path)
    Path("toy_networks.py").write_text(textwrap.dedent(CODE))
    torch.save(dict(zip(("linear.weight", "linear.bias"), weights(toys, "original"), strict=True)), "weights.pt")
    return {"pair__original": "toy_networks:build", "models__original__weights": "weights.pt"}


@pytest.mark.slow
def test_a_function_is_searched_repaired_against_and_verified_like_a_file(
    code: dict[str, Any], toys: Any, dflare: Callable[..., Any], finished: Path
):
    settings = toys.settings(Path("run"), verify__runtimes="[default]", **code)
    assert dflare("loop", "--allow-code", *settings).code in (0, 1)
    reports = [json.loads((folder / "report.json").read_text()) for folder in (Path("run"), finished)]
    mine, plain = (report["rounds"][0] for report in reports)
    assert mine["repair"]["generalization"] == plain["repair"]["generalization"]
    verified = mine["search"]["verification"]["runtimes"]["default"]
    assert verified["deviates"]["value"] == 1
    assert verified["original"].startswith("toy_networks:build")
    assert reports[0]["models"]["original"]["format"] == "code"


@pytest.mark.slow
def test_a_function_may_be_the_compressed_model(code: dict[str, Any], toys: Any, dflare: Callable[..., Any]):
    pair = {"pair__original": toys.model("pruned"), "pair__compressed": code["pair__original"]}
    weights = {"models__compressed__weights": "weights.pt"}
    settings = toys.settings(Path("run"), verify__runtimes="[default]", **pair, **weights)
    answer = dflare("search", "--allow-code", *settings)
    assert answer.code == 0, answer.err
    assert len(found(Path("run"))) > 0
    answer = dflare("loop", "--allow-code", *settings)
    assert answer.code == 2
    assert "repair its answers by repair.recipe=output-mlp" in answer.err


def test_a_function_may_return_an_exported_program(toys: Any, dflare: Callable[..., Any], code: dict[str, Any]):
    lines = f"import torch\n\ndef build():\n    return torch.export.load({str(toys.model('original'))!r}).module()\n"
    Path("exported_networks.py").write_text(lines)
    settings = toys.settings(Path("run"), pair__original="exported_networks:build")
    answer = dflare("search", "--allow-code", *settings)
    assert answer.code == 0, answer.err


def test_code_runs_only_where_the_command_line_says_so(code: dict[str, Any], toys: Any, dflare: Callable[..., Any]):
    settings = toys.settings(Path("run"), **code)
    answer = dflare("search", *settings)
    assert (answer.code, Path("run").exists()) == (2, False)
    assert "toy_networks:build is code, which runs only with --allow-code" in answer.err
    assert dflare("search", *settings, "--allow-code").code == 0
    for more in ((), ("--allow-code",)):
        answer = dflare("search", "run/config.yaml", *more)
        assert answer.code == 2
        assert "code, which is never loaded because a file says so" in answer.err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pair__original": "toy_networks:nothing"}, "expected a function nothing"),
        ({"pair__original": "no_networks:build"}, "expected a module no_networks"),
        ({"pair__original": "toy_networks:number"}, "it returned a int"),
        ({"models__original__weights": "none.pt"}, "none.pt"),
        ({"models__original__weights": None, "models__compressed__weights": "weights.pt"}, "weights of its own"),
    ],
)
def test_code_that_is_not_there_or_no_model_is_said_in_one_sentence(
    changes: dict[str, Any], words: str, code: dict[str, Any], toys: Any, dflare: Callable[..., Any]
):
    answer = dflare("search", "--allow-code", *toys.settings(Path("run"), **(code | changes)))
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err
    assert len(answer.err.splitlines()) == 1


@pytest.mark.slow
def test_a_pair_may_be_of_two_formats(toys: Any, dflare: Callable[..., Any], tmp_path: Path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    program = torch.export.load(toys.model("original"))
    torch.onnx.export(program, dynamo=True).save(tmp_path / "original.bin")  # whatever its name
    settings = toys.settings(tmp_path / "run", pair__original=tmp_path / "original.bin", data__name=None)
    answer = dflare("loop", *settings)
    assert answer.code in (0, 1), answer.err
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    formats = {which: entry["format"] for which, entry in report["models"].items()}
    assert formats == {"original": "onnx", "compressed": "exported"}


@pytest.mark.slow
def test_seeds_are_balanced_by_label_or_by_what_the_original_says(
    toys: Any, dflare: Callable[..., Any], tmp_path: Path
):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in toys.images.rglob("*.png"):
        (flat / path.name).write_bytes(path.read_bytes())
    for name, more in (("labels", {}), ("none", {"data__root": flat, "data__name": None})):
        settings = toys.settings(tmp_path / name, search__choose="balanced", search__seeds=12, **more)
        assert dflare("search", *settings).code == 0
        seeds = read_endings(tmp_path / name / "round-00" / "triggers").side(Side.train)
        assert len(seeds) == 12
    original = open_classifier(toys.model("original"))
    triggers = found(tmp_path / "none").side(Side.train)
    counts = ask(original, triggers.seed_images).argmax(-1).bincount(minlength=3)
    assert int(counts.max()) <= 4
