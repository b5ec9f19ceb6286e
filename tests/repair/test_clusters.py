"""Clusters of triggers: what was planted is found, what was not is not."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dflare.classifiers import Outputs, to_unit
from repair.clusters import MIN_POINTS, SPARE, find_clusters, knee
from repair.data import Examples
from repair.features import features, log_probabilities
from repair.orders import Balanced, kinds
from repair.recipes import BALANCES, RECIPES
from repair.trainable import Trainable


def blobs(sizes: tuple[int, ...], apart: float = 12.0, stray: int = 0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points (n, 16) around corners that are `apart` times their spread away, strays all over, and which is which."""
    generator = torch.Generator().manual_seed(seed)
    names = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    corners = torch.eye(16)[: len(sizes)] * apart / 2**0.5
    points = corners[names] + torch.randn(len(names), 16, generator=generator) / 4  # a spread of 1 over 16 dimensions
    strays = (torch.rand(stray, 16, generator=generator) - 0.5) * 4 * apart
    order = torch.randperm(len(names) + stray, generator=generator)
    whole = torch.cat([names, torch.full((stray,), len(sizes))])
    return torch.cat([points, strays])[order], whole[order]


def purity(groups: Tensor, truth: Tensor, count: int) -> float:
    """Share of the points in the first `count` groups that are of their group's most frequent kind."""
    inside = groups < count
    most = sum(int(truth[groups == group].bincount().max()) for group in range(count))
    return most / int(inside.sum())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_three_planted_blobs_are_found(seed: int):
    points, truth = blobs((120, 80, 50), seed=seed)
    found = find_clusters(points)
    assert found.count == 3
    assert purity(found.groups, truth, 3) == 1
    assert float((found.groups < 3).float().mean()) > 0.8
    assert [int(truth[found.groups == group].mode().values) for group in range(3)] == [0, 1, 2]  # by size
    assert found.silhouette > 0.7


def test_points_in_no_cluster_form_the_last_group():
    points, truth = blobs((120, 80), stray=15)
    found = find_clusters(points)
    assert (found.count, found.noise) == (2, True)
    assert bool((found.groups[truth == 2] == 2).all())  # the strays
    assert float((found.groups[truth < 2] < 2).float().mean()) > 0.8


def test_one_cloud_is_not_taken_for_three_blobs():
    """The wrong case: nothing was planted."""
    points, _ = blobs((250,))
    assert find_clusters(points).count == 1
    touching, truth = blobs((120, 80, 50), apart=1.0)
    found = find_clusters(touching)
    assert found.count != 3 or purity(found.groups, truth, 3) < 0.9


def test_the_order_of_the_points_does_not_matter_nor_does_where_they_are():
    points, _ = blobs((60, 40, 30))
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(1))
    groups = find_clusters(points).groups
    assert torch.equal(find_clusters(points[order]).groups, groups[order])
    assert torch.equal(find_clusters(points * 3 + 100).groups, groups)


def test_few_points_and_equal_points_are_one_cluster():
    few = torch.randn(SPARE * MIN_POINTS[0] - 1, 3, generator=torch.Generator().manual_seed(0))
    for points in (few, torch.ones(100, 4), torch.zeros(1, 2)):
        found = find_clusters(points)
        assert (found.count, found.groups.tolist()) == (1, [0] * len(points))
    assert find_clusters(torch.zeros(0, 3)).count == 0


def test_repeated_images_are_dense_however_near():
    points = torch.cat([torch.zeros(30, 2), torch.ones(30, 2)])
    assert find_clusters(points).groups.tolist() == [0] * 30 + [1] * 30


@pytest.mark.parametrize("points", [torch.zeros(30), torch.full((30, 2), torch.nan)])
def test_what_are_no_points_is_refused(points: Tensor):
    with pytest.raises(ValueError, match=r"features must be finite \(n, f\)"):
        find_clusters(points)


def test_the_knee_is_where_the_curve_bends():
    flat, steep = np.linspace(1.0, 1.1, 90), np.linspace(1.2, 9.0, 10)
    assert knee(np.concatenate([steep, flat])) == pytest.approx(1.1, abs=0.11)
    assert knee(np.full(5, 2.0)) == 2.0


class Matrix(nn.Module):
    """Two matrices with a ReLU between them."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(8, 16, generator=generator))
        self.last = nn.Parameter(torch.randn(3, 8, generator=generator))

    def seen(self, images: Tensor) -> Tensor:
        """What the last layer reads, (n, 8)."""
        return F.relu(F.linear(torch.flatten(images, 1), self.first))

    def forward(self, images: Tensor) -> Tensor:
        return F.linear(self.seen(images), self.last)


class Kernel(Matrix):
    """A kernel of one pixel last, as in SqueezeNet: its answers are means over the map."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(self.first.detach()[:, :4].reshape(8, 1, 2, 2))
        self.last = nn.Parameter(self.last.detach()[:, :, None, None])

    def seen(self, images: Tensor) -> Tensor:
        return F.relu(F.conv2d(images, self.first))

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(self.seen(images), self.last).mean((2, 3))


def opened(module: nn.Module) -> Trainable:
    return Trainable(module, {}, lambda weights, path: None, lambda path: None)


def some(n: int) -> Examples:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (n, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return Examples(images, torch.rand(n, 3, generator=generator).softmax(-1))


def test_features_are_what_the_last_matrix_reads():
    net, examples = Matrix(), some(130)  # more than one batch
    found = features(opened(fx.symbolic_trace(net)), examples)
    assert torch.allclose(found, net.seen(to_unit(examples.images)).detach(), atol=1e-5)
    assert found.shape == (130, 8)


def test_of_a_feature_map_the_means_of_its_channels():
    net, examples = Kernel(), some(5)
    found = features(opened(fx.symbolic_trace(net)), examples)
    assert torch.allclose(found, net.seen(to_unit(examples.images)).detach().mean((2, 3)), atol=1e-5)


def test_an_original_that_stays_closed_is_known_by_its_log_probabilities():
    examples = some(6)
    expected = examples.targets.log()
    assert torch.equal(features(None, examples), expected)
    assert torch.equal(features(opened(Matrix()), examples), expected)  # a module without a graph
    assert log_probabilities(torch.tensor([[1.0, 0.0]])).tolist() == [[0.0, pytest.approx(-13.8155, abs=1e-4)]]


def test_a_balance_by_kinds_shows_every_kind_equally_often():
    points, truth = blobs((160, 50, 40))
    outputs = Outputs(torch.zeros(250, 3), torch.zeros(250, 3))
    balance = BALANCES[RECIPES["clustered"].balance]
    assert balance is kinds
    groups = balance(outputs, lambda: points)
    assert torch.equal(groups, find_clusters(points).groups)
    shown = truth[Balanced(groups, seed=0)(0, 4000)].bincount() / 4000
    alike = truth.bincount() / 250
    assert float(shown.max() - shown.min()) < 0.5 * float(alike.max() - alike.min())


def test_without_features_kinds_are_told_by_the_answers_of_the_original():
    scores = (
        torch.eye(3).repeat_interleave(30, 0) * 20 + torch.randn(90, 3, generator=torch.Generator().manual_seed(0)) / 9
    )
    groups = kinds(Outputs(scores, torch.zeros(90, 3)))
    truth = torch.arange(3).repeat_interleave(30)
    assert int(groups.max()) >= 2
    assert purity(groups, truth, 3) == 1
