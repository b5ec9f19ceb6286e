"""Weights of one or two bits: recognised in files, trained as such, written as such, checked when reopened."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dflare.errors import InputError
from dflare.models.opening import open_classifier
from repair.compression import Compressed, Pruned, check_plan
from repair.pt2_models.artifact import open_exported
from repair.signs import REACH, Signs, Ternary, TwoBits, few_values, lead_through_signs, recognised, sign


def drawn(values: list[float], shape: tuple[int, ...], scale: Tensor | float = 0.1, seed: int = 0) -> Tensor:
    """A weight whose numbers are drawn from some values, times a scale."""
    picks = torch.randint(len(values), shape, generator=torch.Generator().manual_seed(seed))
    return torch.tensor(values)[picks] * scale


def scales(count: int, dimensions: int, axis: int = 0) -> Tensor:
    """Scales that are no round numbers, one a slice of an axis."""
    shape = [1] * dimensions
    shape[axis] = -1
    return (torch.rand(count, generator=torch.Generator().manual_seed(9)) + 0.01).view(shape)


KINDS = [([-1.0, 1.0], Signs), ([-1.0, 0.0, 1.0], Ternary), ([-2.0, -1.0, 0.0, 1.0], TwoBits)]


@pytest.mark.parametrize(("values", "kind"), KINDS)
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_weights_of_few_values_are_recognised_with_their_scales(values, kind, axis):
    scale = torch.tensor(0.0371) if axis is None else scales(8, 4, axis)
    weight = drawn(values, (8, 8, 3, 3), scale)
    found = recognised(weight)
    assert type(found) is kind
    assert torch.equal(found.scale.expand_as(weight), scale.expand_as(weight))
    assert torch.equal(found(weight), weight)


def rounded_to_eighths(shape: tuple[int, ...]) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 8).round() / 8


@pytest.mark.parametrize(
    "weight",
    [
        torch.randn(16, 8, generator=torch.Generator().manual_seed(0)),
        rounded_to_eighths((16, 16)),
        drawn([-1.0, 1.0], (2, 2)),
        torch.tensor([[0.1], [-0.3], [0.2], [0.4], [-0.7], [0.6], [0.8], [0.9], [1.1], [-1.2]]),
        torch.eye(16),
        torch.full((4, 9), 1 / 9),
        drawn([-1.0, 1.0], (64,)),
        drawn([-1.0, 1.0, 2.0], (16, 16)),
        drawn([-1.0, 1.0], (16, 16)).double(),
        drawn([-1.0, 1.0], (16, 16)) * torch.tensor([1.0] * 15 + [torch.nan]),
        drawn([-1.0, 1.0], (16, 16)) + 1e-8 * torch.arange(16),
    ],
    ids=["any", "grid", "tiny", "one a row", "identity", "average", "bias", "-1 1 2", "double", "nan", "nearly"],
)
def test_what_has_few_values_by_chance_or_by_design_is_not_taken_for_compressed(weight):
    assert recognised(weight) is None


def test_slices_of_zeros_stay_zero_beside_signs():
    weight = drawn([-1.0, 1.0], (8, 16), scales(8, 2))
    weight[3] = 0
    project = recognised(weight)
    assert type(project) is Signs
    assert torch.equal(project(weight), weight)
    latent = (weight + 5).requires_grad_(True)
    project(latent).sum().backward()
    assert not project(latent)[3].any()
    assert not latent.grad[3].any()


@pytest.mark.parametrize(("values", "kind"), KINDS)
def test_the_projection_is_idempotent_and_its_values_are_the_files(values, kind):
    weight = drawn(values, (8, 8), scales(8, 2))
    project = recognised(weight)
    once = project(weight + torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(project(once), once)
    assert not torch.equal(once, weight)
    assert set((once / project.scale).unique().tolist()) == set(values)


def test_a_sign_turns_when_its_latent_weight_has_travelled_its_reach_and_turns_back_there():
    came = torch.tensor([2.0, -2.0])
    project = Signs(torch.tensor(2.0), came)
    short, far = 2 * REACH - 0.01, 2 * REACH + 0.01
    assert project(came - torch.tensor([short, -short])).tolist() == [2, -2]
    assert project(came - torch.tensor([far, -far])).tolist() == [-2, 2]


def test_a_ternary_weight_goes_to_the_nearest_value_and_never_beyond():
    project = Ternary(torch.tensor(2.0))
    assert project(torch.tensor([0.9, 1.1, 99.0, -0.9, -1.1, -99.0])).tolist() == [0, 2, 2, 0, -2, -2]
    assert TwoBits(torch.tensor(2.0))(torch.tensor([99.0, -2.9, -3.1, -99.0])).tolist() == [2, -2, -4, -4]


def test_gradients_pass_straight_through_and_beyond_the_values_only_inwards():
    latent = torch.tensor([0.3, 1.5, 1.5, -1.5, -1.5], requires_grad=True)
    slope = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0])  # descent raises where the slope falls
    (Ternary(torch.tensor(1.0))(latent) * slope).sum().backward()
    assert latent.grad.tolist() == [1, 0, 1, 0, -1]


def test_one_layer_of_signs_finds_the_signs_on_paper():
    """Whitened inputs make the loss a sum over single weights: each sign is to be that of the wanted weight.

    With inputs x of covariance 1, E (w x - v x)^2 = sum (w_i - v_i)^2, least over w_i in {-s, s} at s * sign(v_i).
    Where |v_i| > s the slope 2 (w_i - v_i) has one sign for both values, so that the way there has no return.
    """
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(64, 16, generator=generator))
    inputs, wanted = basis * 8, torch.randn(4, 16, generator=generator)
    wanted = wanted.sign() * (wanted.abs() + 0.6)
    layer = nn.Linear(16, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(drawn([-1.0, 1.0], (4, 16), 0.5))
    student = Compressed(layer, few_values(layer))
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        F.mse_loss(student(inputs), inputs @ wanted.T).backward()
        optimizer.step()
    assert torch.equal(student.weights()["weight"].detach(), 0.5 * wanted.sign())


def test_a_weight_that_is_no_number_is_not_compressed():
    for values, _ in KINDS:
        weight = drawn(values, (8, 8))
        plan = {"w": recognised(weight)}
        with pytest.raises(ValueError, match="no longer compressed"):
            check_plan({"w": weight * torch.nan}, plan)


class FewBits(nn.Module):
    """A convolution of signs, signs of its activations, a ternary layer, and a float one."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.hidden, self.head = nn.Conv2d(1, 8, 3), nn.Linear(8 * 16, 8), nn.Linear(8, 3)
        with torch.no_grad():
            self.convolution.weight.copy_(drawn([-1.0, 1.0], (8, 1, 3, 3), scales(8, 4)))
            self.hidden.weight.copy_(drawn([-1.0, 0.0, 1.0], (8, 128)))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.hidden(torch.sign(self.convolution(images)).flatten(1)).relu())


class FewBitsRelu(FewBits):
    """The same without signs of activations."""

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.hidden(self.convolution(images).relu().flatten(1)).relu())


def pt2(path: Path, model: nn.Module) -> Path:
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(model.eval(), (torch.rand(2, 1, 6, 6),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return path


def onnx_file(path: Path, model: nn.Module) -> None:
    onnx = pytest.importorskip("onnx")
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        make("Conv", ["images", "convolution.weight", "convolution.bias"], ["first"]),
        make("Relu", ["first"], ["positive"]),
        make("Flatten", ["positive"], ["flat"]),
        make("Gemm", ["flat", "hidden.weight", "hidden.bias"], ["second"], transB=1),
        make("Relu", ["second"], ["features"]),
        make("Gemm", ["features", "head.weight", "head.bias"], ["scores"], transB=1),
    ]
    stored = [onnx.numpy_helper.from_array(value.numpy(), name) for name, value in model.state_dict().items()]
    ends = [[info("images", 1, ["n", 1, 6, 6])], [info("scores", 1, ["n", 3])]]
    graph = onnx.helper.make_graph(nodes, "few", *ends, stored)
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    path.write_bytes(made.SerializeToString(deterministic=True))


def trained(trainable, steps: int = 30) -> Compressed:
    """The student after some steps towards another answer."""
    student = Compressed(trainable.module, trainable.plan)
    images = torch.rand(32, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(32) % 3
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(student(images), labels).backward()
        optimizer.step()
    return student


def values_of(weight: Tensor) -> list[set[float]]:
    return [set(row.tolist()) for row in weight.flatten(1)]


def test_a_pt2_file_keeps_its_values_and_a_file_that_lost_them_is_refused(tmp_path: Path):
    torch.manual_seed(0)
    model = FewBits()
    trainable = open_exported(pt2(tmp_path / "few.pt2", model))
    kinds = {name.removeprefix("program."): type(plan) for name, plan in trainable.plan.items()}
    assert kinds == {"convolution.weight": Signs, "hidden.weight": Ternary}
    student = trained(trainable)
    trainable.write({name: weight.detach() for name, weight in student.weights().items()}, tmp_path / "after.pt2")
    trainable.check(tmp_path / "after.pt2")
    after = {
        name.removeprefix("program."): weight.detach()
        for name, weight in open_exported(tmp_path / "after.pt2").module.named_parameters()
    }
    assert values_of(after["convolution.weight"]) == values_of(model.convolution.weight.detach())
    assert set(after["hidden.weight"].unique().tolist()) == set(model.hidden.weight.unique().tolist())
    assert not torch.equal(after["convolution.weight"], model.convolution.weight)  # through the activations' signs
    images = torch.rand(16, 1, 6, 6)
    assert torch.equal(open_classifier(tmp_path / "after.pt2")(images), student(images).detach())
    broken = dict(student.weights())
    broken["program.hidden.weight"] = broken["program.hidden.weight"] * 1.01
    trainable.write(broken, tmp_path / "broken.pt2")
    with pytest.raises(InputError, match=r"hidden\.weight is no longer compressed: being ternary"):
        trainable.check(tmp_path / "broken.pt2")


def test_an_onnx_file_keeps_its_values_and_a_file_that_lost_them_is_refused(tmp_path: Path):
    pytest.importorskip("onnxruntime")
    from repair.onnx_models.artifact import open_onnx_artifact

    torch.manual_seed(0)
    onnx_file(tmp_path / "few.onnx", FewBitsRelu())
    trainable = open_onnx_artifact(tmp_path / "few.onnx")
    assert sorted(type(plan).__name__ for plan in trainable.plan.values()) == ["Signs", "Ternary"]
    before = {name: weight.detach().clone() for name, weight in trainable.module.named_parameters()}
    student = trained(trainable)
    trainable.write(student.weights(), tmp_path / "after.onnx")
    trainable.check(tmp_path / "after.onnx")
    after = dict(open_onnx_artifact(tmp_path / "after.onnx").module.named_parameters())
    for name in trainable.plan:
        assert set(after[name].unique().tolist()) == set(before[name].unique().tolist())
        assert not torch.equal(after[name], before[name])
    (ternary,) = (name for name, plan in trainable.plan.items() if isinstance(plan, Ternary))
    trainable.write(dict(student.weights()) | {ternary: before[ternary] * 1.01}, tmp_path / "broken.onnx")
    with pytest.raises(InputError, match="is no longer compressed: being ternary"):
        trainable.check(tmp_path / "broken.onnx")


def test_repairing_nothing_changes_no_byte_of_a_file_of_signs(tmp_path: Path):
    path = pt2(tmp_path / "few.pt2", FewBits())
    trainable = open_exported(path)
    trainable.write(Compressed(trainable.module, trainable.plan).weights(), tmp_path / "same.pt2")
    trainable.check(tmp_path / "same.pt2")
    assert (tmp_path / "same.pt2").read_bytes() == path.read_bytes()


def test_pruned_weights_of_many_values_keep_their_zeros_and_are_no_ternary_ones():
    layer = nn.Linear(16, 8)
    with torch.no_grad():
        layer.weight[:, ::2] = 0
    assert few_values(layer) == {}


def test_signs_of_activations_answer_as_before_and_pass_gradients_where_they_may_turn():
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], requires_grad=True)
    sign(x).sum().backward()
    assert sign(x).tolist() == [-1, -1, 0, 1, 1]
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_a_graph_without_signs_is_left_alone():
    graph = torch.fx.symbolic_trace(nn.ReLU())
    code = graph.code
    lead_through_signs(graph)
    assert graph.code == code


def test_zeros_of_a_ternary_weight_may_move_and_those_of_a_pruned_one_may_not():
    weight = drawn([-1.0, 0.0, 1.0], (8, 8))
    assert (recognised(weight)(torch.ones(8, 8)) != 0).all()
    assert torch.equal(Pruned(weight != 0)(torch.ones(8, 8)) != 0, weight != 0)
