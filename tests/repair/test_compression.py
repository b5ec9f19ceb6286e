"""Compression is a projection: idempotent, kept by training, proved on what was written."""

import pytest
import torch
from torch import nn

from repair.compression import Compressed, Pruned, Quantized, check_plan, prune_by_magnitude, zeros_stay_zero


def network() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def quantized(bits: int, scale: float, zero_point: float = 0.0) -> Quantized:
    half = 2 ** (bits - 1)
    return Quantized(torch.tensor(scale), torch.tensor(zero_point), -half, half - 1)


@pytest.mark.parametrize(
    "project",
    [
        Pruned(torch.rand(32, 16, generator=torch.Generator().manual_seed(0)) < 0.3),
        quantized(8, 0.02),
        quantized(2, 0.5),
    ],
    ids=["pruned", "int8", "int2"],
)
def test_a_projection_applied_twice_is_the_projection_applied_once(project):
    weight = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
    once = project(weight)
    assert torch.equal(project(once), once)
    assert not torch.equal(once, weight)


def test_integers_are_rounded_half_to_even_and_clamped_never_wrapped():
    weight = torch.tensor([0.5, 1.5, 2.5, -0.5, 126.6, 127.4, 300.0, -128.4, -999.0])
    assert quantized(8, 1.0).integers(weight).tolist() == [0, 2, 2, 0, 127, 127, 127, -128, -128]


def test_a_zero_point_shifts_the_integers_and_not_the_values():
    project = Quantized(torch.tensor(0.5), torch.tensor(10.0), 0, 255)
    assert project.integers(torch.tensor([0.0, 1.0])).tolist() == [10, 12]
    assert project(torch.tensor([0.0, 1.0, -100.0])).tolist() == [0, 1, -5]


def test_every_channel_has_its_own_grid():
    project = Quantized(torch.tensor([[1.0], [0.25]]), torch.zeros(2, 1), -128, 127)
    assert project(torch.tensor([[0.6], [0.6]])).tolist() == [[1.0], [0.5]]


def test_gradients_pass_straight_through_inside_the_grid_and_stop_outside():
    weight = torch.tensor([0.3, 5.0], requires_grad=True)
    quantized(2, 1.0)(weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [1, 0]


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.85])
def test_pruning_by_magnitude_removes_the_smallest_weights_of_every_tensor(sparsity):
    model = network()
    plan = prune_by_magnitude(model, sparsity)
    for name, project in plan.items():
        weight = model.get_parameter(name).detach()
        kept = project(weight) != 0
        assert (~kept).sum().item() == round(sparsity * weight.numel())
        if sparsity:
            assert weight[kept].abs().min() >= weight[~kept].abs().max()
    assert set(plan) == {"1.weight", "3.weight"}


@pytest.mark.parametrize("sparsity", [-0.1, 1.0])
def test_a_sparsity_outside_of_zero_to_one_is_refused(sparsity):
    with pytest.raises(ValueError, match="sparsity must be in"):
        prune_by_magnitude(network(), sparsity)


def test_training_moves_the_weights_but_never_the_compression():
    torch.manual_seed(0)
    model = network()
    plan = prune_by_magnitude(model, 0.8)
    student = Compressed(model, plan)
    images = torch.rand(64, 1, 4, 4)
    targets = images[:, 0].sum(2).argmax(1)  # the brightest row
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    before = {name: weight.detach().clone() for name, weight in student.weights().items()}
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(student(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    after = {name: weight.detach() for name, weight in student.weights().items()}
    check_plan(after, plan)
    assert losses[-1] < losses[0] - 0.1
    assert all(not torch.equal(before[name], after[name]) for name in plan)
    with pytest.raises(ValueError, match=r"1\.weight is no longer compressed"):
        check_plan({name: weight + 0.01 for name, weight in after.items()}, plan)


def test_what_is_found_zero_stays_zero_and_dense_weights_are_free():
    model = network()
    with torch.no_grad():
        model[1].weight[:, ::2] = 0
    plan = zeros_stay_zero(model)
    assert set(plan) == {"1.weight"}
    assert (plan["1.weight"](torch.ones(32, 16)) != 0).sum() == 32 * 8


def test_a_weight_that_is_not_a_number_is_never_compressed():
    plan = {"w": Pruned(torch.tensor([True, False]))}
    with pytest.raises(ValueError, match="no longer compressed"):
        check_plan({"w": torch.tensor([float("nan"), 0.0])}, plan)


def test_a_pruned_weight_that_is_nearly_zero_is_not_pruned():
    """A ten-millionth of the others would be lost in the rounding of an integer grid, and is a stored number here."""
    plan = {"w": Pruned(torch.tensor([True, False]))}
    check_plan({"w": torch.tensor([1.0, 0.0])}, plan)
    with pytest.raises(ValueError, match="being pruned would move it by up to 1e-07"):
        check_plan({"w": torch.tensor([1.0, 1e-7])}, plan)
