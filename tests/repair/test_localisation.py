"""Localisation finds damage that was planted, and agrees with sums worked out loop by loop."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dflare.classifiers import Outputs, to_unit
from dflare.errors import InputError
from repair.data import Examples
from repair.locating.localisation import METHODS, localise
from repair.locating.pareto import fronts
from repair.locating.ranking import Ranking, as_dict
from repair.pt2_models.artifact import Exported
from repair.pt2_models.fake_quantize import fake_quantize_per_tensor
from repair.trainable import Trainable

LAYERS = ("one", "two", "three")
IMAGES = 400
STRAY = {"one": 7, "two": 8 * 36 + 26, "three": 7}  # places of the stray weights, in a channel that is not dead


class Small(nn.Module):
    """A convolution and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(1, 4, 3, stride=2), nn.Linear(36, 12), nn.Linear(12, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.three(self.two(self.one(images).relu().flatten(1)).relu())


def opened(
    model: nn.Module, shape: tuple[int, ...] = (1, 8, 8), roundings: Mapping[str, float] | None = None
) -> Trainable:
    """The model as an exported program, opened for repair; `roundings`: value -> step of the grid it is rounded to."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(model.eval(), (torch.rand(2, *shape),), dynamic_shapes=({0: batch},)).module()
    for node in [node for node in program.graph.nodes if node.name in (roundings or {})]:
        with program.graph.inserting_after(node):
            grid = ((roundings or {})[node.name], 0, -(10**6), 10**6)
            rounded = program.graph.call_function(fake_quantize_per_tensor, (node, *grid))
        node.replace_all_uses_with(rounded, delete_user_cb=lambda user, rounded=rounded: user is not rounded)
    program.recompile()
    return Trainable(Exported(program), {}, lambda weights, path: None, lambda path: None)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Smooth noise, (n, 1, 8, 8) uint8."""
    noise = torch.randn(IMAGES, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    smooth = nn.functional.interpolate(noise, (8, 8), mode="bilinear")
    return (smooth * 60 + 128).round().clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def weights(images: Tensor) -> dict[str, Tensor]:
    """Of a network that was trained to tell a hidden linear rule's three classes apart."""
    torch.manual_seed(0)
    model = Small()
    inputs = to_unit(images)
    targets = ((inputs - 0.5).flatten(1) @ torch.randn(64, 3)).argmax(-1)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimiser.zero_grad()
        cross_entropy(model(inputs), targets).backward()
        optimiser.step()
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def network(weights: Mapping[str, Tensor]) -> Small:
    model = Small()
    model.load_state_dict(dict(weights))
    return model


def cases(original: nn.Module, compressed: nn.Module, images: Tensor) -> tuple[Examples, Examples]:
    """Images on which the two deviate and on which they agree, with the original's probabilities."""
    with torch.no_grad():
        outputs = Outputs(original(to_unit(images)), compressed(to_unit(images)))
    targets, deviates = outputs.probabilities[0], outputs.deviates
    assert 5 <= int(deviates.sum()) <= len(images) - 5, f"{int(deviates.sum())} triggers"
    return Examples(images[deviates], targets[deviates]), Examples(images[~deviates], targets[~deviates])


def located(method: str, images: Tensor, original: nn.Module, compressed: nn.Module, reference: bool = True) -> Ranking:
    triggers, clean = cases(original, compressed, images)
    known = opened(original) if reference else None
    return localise(opened(compressed), triggers, clean, method, known)


def noisy_layer(weights: Mapping[str, Tensor], layer: str) -> dict[str, Tensor]:
    """All of a layer's weights a little off, as after a coarse rounding."""
    noise = torch.randn(weights[f"{layer}.weight"].shape, generator=torch.Generator().manual_seed(2))
    weight = weights[f"{layer}.weight"]
    return {**weights, f"{layer}.weight": weight + 0.5 * weight.std() * noise}


def loud_channel(weights: Mapping[str, Tensor], layer: str, channel: int = 1, factor: float = 4) -> dict[str, Tensor]:
    """One channel that says everything four times as loud."""
    weight = weights[f"{layer}.weight"].clone()
    weight[channel] *= factor
    return {**weights, f"{layer}.weight": weight}


def stray_weight(weights: Mapping[str, Tensor], layer: str, size: float = 3) -> dict[str, Tensor]:
    """One weight that is far too large, such as after a bit flip."""
    weight = weights[f"{layer}.weight"].clone()
    weight.view(-1)[STRAY[layer]] += size
    return {**weights, f"{layer}.weight": weight}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("damage", [noisy_layer, loud_channel, stray_weight])
def test_intervention_finds_every_damaged_layer_alone(
    damage: Callable[..., dict[str, Tensor]], layer: str, weights: dict[str, Tensor], images: Tensor
) -> None:
    found = located("intervention", images, network(weights), network(damage(weights, layer)))
    assert found.names()[0] == layer
    assert found[layer].share.value == found[layer].repaired.value == 1
    assert all(found[other].repaired.value == 0 for other in LAYERS if other != layer)
    if damage is loud_channel:
        assert int(np.argmax(found[layer].channels)) == 1
    if damage is stray_weight:
        place = tuple(int(i) for i in np.unravel_index(STRAY[layer], weights[f"{layer}.weight"].shape))
        assert found[layer].weights[0].index == place
        assert found[layer].weights[0].share == pytest.approx(1)


@pytest.mark.parametrize("layer", ["one", pytest.param("three", marks=pytest.mark.slow)])
def test_pareto_names_a_stray_weight_first_in_its_layer(layer: str, weights: dict[str, Tensor], images: Tensor) -> None:
    some = images[:150] if layer == "one" else images  # the last layer's front is told apart by more of them only
    found = located("pareto", some, network(weights), network(stray_weight(weights, layer)))
    assert found[layer].weights[0].index == tuple(np.unravel_index(STRAY[layer], weights[f"{layer}.weight"].shape))


@pytest.mark.parametrize(("value", "step"), [("relu", 1.0), ("relu_1", 4.0)])
def test_intervention_finds_the_one_coarse_rounding(
    value: str, step: float, weights: dict[str, Tensor], images: Tensor
) -> None:
    roundings = {"relu": 1e-3, "relu_1": 1e-3, "linear_1": 1e-3, value: step}  # the last makes ties at most
    compressed = opened(network(weights), roundings=roundings)
    found = localise(compressed, *cases(network(weights), compressed.module, images))
    assert {layer.kind for layer in found.layers} == {"fake_quantize_per_tensor"}
    assert found.layers[0].value == value
    assert found.layers[0].repaired.value > 0.9
    assert all(layer.repaired.value < 0.1 for layer in found.layers[1:])


@pytest.mark.parametrize("method", METHODS)
def test_a_network_without_damage_has_no_responsible_layer(
    method: str, weights: dict[str, Tensor], images: Tensor
) -> None:
    """The wrong case: half of the images are called triggers though both networks are the same."""
    original = network(weights)
    with torch.no_grad():
        targets = original(to_unit(images)).softmax(-1)
    halves = [Examples(images[rows:120:2], targets[rows:120:2]) for rows in (0, 1)]
    found = localise(opened(original), halves[0], halves[1], method, opened(original))
    assert found.evidence is (method == "activation")
    assert max(layer.share.value for layer in found.layers) < 0.5


@pytest.mark.slow
def test_results_are_the_same_each_time_and_shares_sum_to_one(weights: dict[str, Tensor], images: Tensor) -> None:
    compressed = network(noisy_layer(weights, "two"))
    for method in ("intervention", "activation", "gradient"):
        one, two = (located(method, images[:100], network(weights), compressed) for _ in range(2))
        assert as_dict(one) == as_dict(two)
        assert sum(layer.share.value for layer in one.layers) == pytest.approx(1)
        assert all(layer.share.low <= layer.share.value <= layer.share.high for layer in one.layers)
        assert all(sum(layer.channels) == pytest.approx(1) or not any(layer.channels) for layer in one.layers)


class Linear2(nn.Module):
    """Two linear layers without biases: everything can be worked out on paper."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.b(self.a(images.flatten(1)))


@pytest.fixture
def paper() -> tuple[Linear2, Linear2, Examples, Examples]:
    """A pair of two-layer linear networks, seven triggers and five clean images of three pixels."""
    original, compressed = Linear2(), Linear2()
    with torch.no_grad():
        original.a.weight.copy_(torch.tensor([[1.0, -1.0, 0.5], [0.25, 1.0, -1.0]]))
        original.b.weight.copy_(torch.tensor([[1.0, 0.5], [-0.5, 1.0]]))
        compressed.load_state_dict(original.state_dict())
        compressed.a.weight[1, 0] = 1.5
    pixels = torch.randint(0, 256, (500, 1, 1, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    triggers, clean = cases(original, compressed, pixels)
    return (
        original,
        compressed,
        Examples(*(t[:7] for t in (triggers.images, triggers.targets))),
        Examples(*(t[:5] for t in (clean.images, clean.targets))),
    )


def by_hand(compressed: Linear2, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Mean |d loss / d w| over the images, of a (2, 3) and of b (2, 2), one weight and image at a time."""
    a, b = (weight.detach().double().numpy() for weight in (compressed.a.weight, compressed.b.weight))
    slopes = np.zeros_like(a), np.zeros_like(b)
    for image, target in zip(examples.images, examples.targets, strict=True):
        x = image.double().numpy().ravel() / 255
        label = int(target.argmax())
        sign = np.array([1.0, -1.0]) * (1 if label == 0 else -1)  # margin = sign . scores
        error = sign @ (b @ a @ x) - sign @ np.log(target.double().numpy())
        for i, j in product(range(2), range(2)):
            slopes[1][i, j] += abs(error * sign[i] * (a @ x)[j]) / len(examples)
        for i, j in product(range(2), range(3)):
            slopes[0][i, j] += abs(error * (sign @ b)[i] * x[j]) / len(examples)
    return slopes


def test_gradient_is_the_sum_of_what_each_weight_adds_to_the_loss_on_paper(
    paper: tuple[Linear2, Linear2, Examples, Examples],
) -> None:
    _, compressed, triggers, clean = paper
    found = localise(opened(compressed, (1, 1, 3)), triggers, clean, "gradient")
    amounts = []
    for weight, here, there in zip(
        (compressed.a.weight, compressed.b.weight),
        by_hand(compressed, triggers),
        by_hand(compressed, clean),
        strict=True,
    ):
        amounts.append(((here - there) * np.abs(weight.detach().numpy())).sum(1).clip(0))  # a channel is a row
    total = sum(channels.sum() for channels in amounts)
    for name, channels in zip("ab", amounts, strict=True):
        assert found[name].share.value == pytest.approx(channels.sum() / total, rel=1e-4)
        if channels.any():
            np.testing.assert_allclose(found[name].channels, channels / channels.sum(), rtol=1e-4)


def test_activation_is_a_difference_of_means_in_standard_deviations_on_paper(
    paper: tuple[Linear2, Linear2, Examples, Examples],
) -> None:
    _, compressed, triggers, clean = paper
    found = localise(opened(compressed, (1, 1, 3)), triggers, clean, "activation")
    scores = []
    for layer in (compressed.a, nn.Sequential(compressed.a, compressed.b)):
        here, there = (layer(to_unit(each.images).flatten(1)).detach().numpy() for each in (triggers, clean))
        channels = [
            abs(here[:, c].mean() - there[:, c].mean()) / np.sqrt((here[:, c].var() + there[:, c].var()) / 2)
            for c in range(2)
        ]
        scores.append(np.mean(channels))
    assert found["a"].share.value == pytest.approx(scores[0] / sum(scores), rel=1e-4)


def test_ten_times_as_many_clean_images_change_no_activation_share(
    paper: tuple[Linear2, Linear2, Examples, Examples],
) -> None:
    """BIRDNN's public code compares sums, which grow with the number of images."""
    _, compressed, triggers, clean = paper
    tenfold = Examples(clean.images.repeat(10, 1, 1, 1), clean.targets.repeat(10, 1))
    one, ten = (
        localise(opened(compressed, (1, 1, 3)), triggers, examples, "activation") for examples in (clean, tenfold)
    )
    assert one["a"].share.value == pytest.approx(ten["a"].share.value, rel=1e-5)


def test_intervention_points_at_the_one_weight_on_paper(paper: tuple[Linear2, Linear2, Examples, Examples]) -> None:
    original, compressed, triggers, clean = paper
    known = {"program.a.weight": original.a.weight.detach()}
    found = localise(opened(compressed, (1, 1, 3)), triggers, clean, "intervention", known)
    assert found.names() == ["a"]  # of the other layer nothing is known
    assert found["a"].channels == (0, 1)
    assert [(weight.index, weight.share) for weight in found["a"].weights] == [((1, 0), pytest.approx(1))]
    assert found.groups["all weights"][0].value == 1


def test_fronts_are_those_of_brute_force() -> None:
    generator = torch.Generator().manual_seed(3)
    one, two = torch.randint(0, 6, (2, 40), generator=generator).float() + 1  # with many equal ones
    left, expected, depth = set(range(40)), torch.zeros(40), 1
    while left and int((expected > 0).sum()) < 15:
        front = {
            i
            for i in left
            if not any(one[j] >= one[i] and two[j] >= two[i] and (one[j] > one[i] or two[j] > two[i]) for j in left)
        }
        expected[list(front)] = 1 / depth
        left, depth = left - front, depth + 1
    assert torch.equal(fronts(one, two, 15), expected)


def test_what_cannot_be_localised_is_refused_in_one_sentence(
    paper: tuple[Linear2, Linear2, Examples, Examples],
) -> None:
    _, compressed, triggers, clean = paper
    model, nothing = opened(compressed, (1, 1, 3)), Examples(torch.zeros(0), torch.zeros(0))
    with pytest.raises(InputError, match="must be one of intervention, gradient, activation, pareto, got 'guess'"):
        localise(model, triggers, clean, "guess")
    with pytest.raises(InputError, match="needs triggers and clean images on which the models agree, got 0 and 5"):
        localise(model, nothing, clean)
    with pytest.raises(InputError, match="got 7 and 0"):
        localise(model, triggers, triggers)
    with pytest.raises(InputError, match="must have a graph, got a Linear2"):
        localise(replace(model, module=compressed), triggers, clean)
