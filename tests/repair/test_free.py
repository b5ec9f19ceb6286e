"""What may change changes, and what is frozen keeps its bytes in the written file."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dflare.errors import InputError
from repair.compression import Pruned
from repair.data import Examples, Mixture, RepairData
from repair.fit import Schedule, fit_steps
from repair.free import by_gradient, choose_free, freeze
from repair.opening import open_trainable
from repair.recipes import Recipe
from repair.trainable import Trainable


class Plain(nn.Sequential):
    """A network that ignores `train`, as compressed models do."""

    def train(self, mode: bool = True) -> "Plain":
        return self


def net(training: bool = False) -> Plain:
    torch.manual_seed(0)
    layers = OrderedDict(
        conv=nn.Conv2d(1, 4, 3), norm=nn.BatchNorm2d(4), act=nn.ReLU(), flat=nn.Flatten(), hidden=nn.Linear(16, 3),
        act2=nn.ReLU(), head=nn.Linear(3, 3),
    )  # fmt: skip
    model = Plain(layers)
    for module in model.modules():
        module.training = training
    return model


class Residual(nn.Module):
    """Two ways to the answer, joined before the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(16, 4), nn.Linear(16, 4), nn.Linear(4, 3, bias=False)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return self.scale * self.head(self.a(flat).relu() + self.b(flat))


def trainable(module: nn.Module, plan: dict | None = None) -> Trainable:
    return Trainable(module, plan or {}, lambda weights, path: None, lambda path: None)


def examples(n: int = 30, seed: int = 0) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return Examples(images, torch.rand(n, 3, generator=generator).softmax(-1))


def data(triggers: Examples) -> RepairData:
    return RepairData(Mixture(triggers, examples(50, 5), 16, 0.5, 0), 10, examples(9, 6), examples(9, 7))


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        ("all", [f"{layer}.{kind}" for layer in ("conv", "norm", "hidden", "head") for kind in ("weight", "bias")]),
        ("last", ["head.weight", "head.bias"]),
        ("bias", ["conv.bias", "norm.weight", "norm.bias", "hidden.bias", "head.bias"]),
    ],
)  # fmt: skip
def test_a_rule_names_the_free_weights(rule: str, names: list[str]):
    assert choose_free(trainable(net()), rule, examples()) == names


def test_the_last_layer_is_found_where_two_ways_join_before_it():
    assert choose_free(trainable(Residual()), "last", examples()) == ["scale", "head.weight"]


def test_the_last_layer_is_found_behind_a_projection():
    module = net()
    plan = {"head.weight": Pruned(torch.ones(3, 3, dtype=torch.bool)), "head.bias": Pruned(torch.ones(3) > 0)}
    assert choose_free(trainable(module, plan), "last", examples()) == ["head.weight", "head.bias"]


def test_the_last_of_two_heads_that_are_added_is_both():
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.one, self.two = nn.Linear(16, 4), nn.Linear(4, 3), nn.Linear(4, 3, bias=False)

        def forward(self, images: Tensor) -> Tensor:
            inner = self.body(images.flatten(1)).relu()
            return self.one(inner) + self.two(inner)

    assert choose_free(trainable(Heads()), "last", examples()) == ["one.weight", "one.bias", "two.weight"]


def test_responsible_weights_are_ranked_by_the_gradient_worked_out_by_hand():
    """One linear layer: the slope of the loss is mean (p - t) for the bias and mean (p - t) x for the weight."""
    module, some = nn.Linear(16, 3), examples()
    flat = nn.Sequential(nn.Flatten(), module)
    x = some.images.float().flatten(1) / 255
    gap = (module(x).softmax(-1) - some.targets).detach()
    sums = {"1.weight": (gap.T @ x).abs().sum(), "1.bias": gap.sum(0).abs().sum()}
    assert by_gradient(trainable(flat), some) == sorted(sums, key=lambda name: -sums[name])


def test_responsible_keeps_as_many_as_asked_and_does_not_move_the_model():
    model = net()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    ranking = by_gradient(trainable(model), examples())
    assert len(ranking) == 8
    for count in (1, 3, 100):
        assert set(choose_free(trainable(model), f"responsible:{count}", examples())) == set(ranking[:count])
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("rule", ["last", "bias", "responsible:2"])
def test_frozen_weights_stay_and_free_ones_move(rule: str):
    model, before = net(training=True), net()  # Lightning warns of what is not in training mode
    recipe = Recipe(free=rule, optimizer="adamw")  # whose weight decay would move what is not frozen
    fitted = fit_steps(trainable(model), data(examples()), recipe, Schedule(20, 1e-2, 10, 1), 20)
    for name, weight in before.named_parameters():
        assert torch.equal(fitted.weights[name], weight) == (name not in fitted.free), name


def test_a_placebo_moves_the_weights_that_the_repair_chose():
    fitted = fit_steps(
        trainable(net(training=True)),
        data(examples()),
        Recipe(free="responsible:1"),
        Schedule(5, 1e-2, 5, 1),
        5,
        free=["norm.bias"],
    )
    assert fitted.free == ("norm.bias",)
    moved = [n for n, w in net().named_parameters() if not torch.equal(w, fitted.weights[n])]
    assert moved == ["norm.bias"]


@pytest.mark.slow
def test_frozen_tensors_keep_their_bytes_in_a_written_pt2_file(tmp_path: Path):
    model = net()
    program = torch.export.export(
        model, (torch.zeros(2, 1, 4, 4),), dynamic_shapes=({0: torch.export.Dim("n", max=999)},)
    )
    torch.export.save(program, tmp_path / "net.pt2")
    assert written_moved(tmp_path / "net.pt2", tmp_path / "out.pt2") == {"program.head.weight", "program.head.bias"}


@pytest.mark.slow
def test_frozen_tensors_keep_their_bytes_in_a_written_int8_onnx_file(tmp_path: Path):
    pytest.importorskip("onnxruntime", reason="int8 files are made by ONNX Runtime: pip install 'dflare[onnx]'")
    from onnx import load, numpy_helper

    from experiments.quantization import quantize_to_onnx

    quantize_to_onnx(net(), examples(64).images, tmp_path / "net.onnx")
    moved = written_moved(tmp_path / "net.onnx", tmp_path / "out.onnx")
    stored = [
        {t.name: numpy_helper.to_array(t).tobytes() for t in load(tmp_path / f"{n}.onnx").graph.initializer}
        for n in ("net", "out")
    ]
    changed = {name for name in stored[0] if stored[0][name] != stored[1][name]}
    assert len(changed) == len(moved) == 2  # weight and bias of the head, nothing else in the file
    assert all("head" in name for name in changed)


def written_moved(source: Path, target: Path) -> set[str]:
    """The weights that a repair of the last layer alone moved in the file that it wrote."""
    opened = open_trainable(source)
    fitted = fit_steps(opened, data(examples()), Recipe(free="last"), Schedule(30, 0.05, 10, 1), 30)
    opened.write(fitted.weights, target)
    opened.check(target)
    before, after = (dict(open_trainable(path).module.named_parameters()) for path in (source, target))
    moved = {
        name for name in before if before[name].detach().numpy().tobytes() != after[name].detach().numpy().tobytes()
    }
    assert moved == set(fitted.free)
    return moved


def test_a_rule_that_frees_nothing_is_refused():
    bare = nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False))
    with pytest.raises(InputError, match="free=bias of the repair's recipe names no weight of this model"):
        choose_free(trainable(bare), "bias", examples())


@pytest.mark.parametrize("rule", ["some", "all:3", "responsible", "responsible:", "responsible:0", "responsible:x", ""])
def test_wrong_rules_are_refused(rule: str):
    with pytest.raises(InputError, match="free"):
        Recipe(free=rule)


def test_a_weight_that_is_not_there_cannot_be_freed():
    with pytest.raises(ValueError, match=r"got \['tail'\]"):
        freeze(trainable(net()), ["tail"])
