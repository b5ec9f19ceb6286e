"""One neuron of a network is wrong: it is named first, its factor is found, and written back into the weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from repair.data import Examples
from repair.locating.tracing import Asked
from repair.locating.watched import Watched
from repair.search_based.factors import fine_tune
from repair.search_based.neurons import Factors, Neuron, Neurons
from repair.search_based.responsibility import causal_effects, first, responsibilities
from repair.search_based.retraining import set_weights
from repair.search_based.sample import Sample, agrees
from tests.repair.search_based.planted import CLASSES, PIXELS, Hidden, opened, parted, shown

LOUD = 2
"""The channel that is twice as large as it should be."""


class Skipping(nn.Module):
    """What the first convolution gives is read by the second one and passes it by."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.three, self.fc = nn.Conv2d(4, 5, 3, padding=1), nn.Linear(5 * 3, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        early = self.one(images).relu()
        late = nn.functional.max_pool2d(self.three(early + self.two(early)).relu(), (1, 2))
        return self.fc(late.flatten(1))


class Normalised(nn.Module):
    """The same with a normalisation behind each convolution, the shift of which is not scaled by what comes before."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.three, self.fc = nn.Conv2d(4, 5, 3, padding=1), nn.Linear(5 * 3, CLASSES)
        self.norm_one, self.norm_two, self.norm_three = (nn.BatchNorm2d(size) for size in (4, 4, 5))
        for norm in (self.norm_one, self.norm_two, self.norm_three):
            norm.running_mean = torch.linspace(-0.1, 0.2, norm.num_features)
            norm.bias = nn.Parameter(torch.linspace(0.3, 0.8, norm.num_features))

    def forward(self, images: Tensor) -> Tensor:
        early = self.norm_one(self.one(images)).relu()
        late = self.norm_three(self.three(early + self.norm_two(self.two(early)))).relu()
        return self.fc(nn.functional.max_pool2d(late, (1, 2)).flatten(1))


@pytest.fixture
def case(tmp_path: Path):
    """The network with the loud channel opened for repair, the images where it shows, and the others."""
    network = Hidden()
    with torch.no_grad():
        network.conv.weight[LOUD] *= 2
    trainable = opened(network, tmp_path / "model.pt2")
    return trainable, Sample(*parted(trainable, shown(Hidden(), 300, 0)))


def test_the_loud_channel_is_the_most_responsible_one(case):
    trainable, sample = case
    neurons = Neurons(Watched(trainable), sample.positive.images)
    assert list(neurons.layers) == ["conv"]  # the scores are no hidden neurons
    assert first(responsibilities(neurons, sample), 1) == [Neuron("conv", LOUD)]


def test_responsibilities_are_means_and_not_sums(case):
    trainable, sample = case
    neurons = Neurons(Watched(trainable), sample.positive.images)
    again = Sample(sample.negative, Examples(*(torch.cat([x, x, x]) for x in _columns(sample.positive))))
    one, three = (responsibilities(neurons, each)["conv"] for each in (sample, again))
    assert torch.allclose(one, three, atol=1e-5)


def test_a_neuron_that_sways_nothing_has_no_effect(tmp_path):
    network = Hidden()
    with torch.no_grad():
        network.fc.weight[:, LOUD] = 0
        network.fc.weight[:, 4] = 3 * network.fc.weight[:, 4]
    trainable = opened(network, tmp_path / "model.pt2")
    neurons = Neurons(Watched(trainable), shown(Hidden(), 3, 0).images)
    effects = causal_effects(neurons, shown(Hidden(), 40, 0))["conv"]
    assert effects[LOUD] == 0
    assert int(effects.argmax()) == 4


def test_fine_tuning_finds_the_factor_and_folds_it_into_the_weights(case):
    trainable, sample = case
    search = fine_tune(trainable, sample, 15, torch.Generator().manual_seed(0), [Neuron("conv", LOUD)])
    *_, weights = search.weights
    set_weights(trainable, weights)
    assert search.moves == ("conv#2",)
    assert list(weights) == ["program.fc.weight"]
    assert float(weights["program.fc.weight"][1, LOUD]) == pytest.approx(0.5, abs=0.1)
    assert agrees(trainable, shown(Hidden(), 300, 1)).float().mean() > 0.95


@pytest.mark.parametrize("kind", [Skipping, Normalised])
@pytest.mark.parametrize("layer", ["one", "two", "three"])
def test_a_factor_is_what_the_neuron_times_it_would_be(kind, layer, tmp_path):
    """Also through a skip connection, by the neuron's own weights, and through pooling, by the next layer's."""
    torch.manual_seed(0)
    network = kind()
    with torch.no_grad():
        for part in (network.one, network.two, network.three):
            part.bias += 0.5  # no channel is silent
    trainable = opened(network, tmp_path / "model.pt2")
    images = shown(Hidden(), 5, 0).images
    model = Watched(trainable)
    factors = Factors(Neurons(model, images), [Neuron(layer, 1)])
    own = layer if kind is Skipping else f"norm_{layer}"
    assert all(name.startswith(f"program.{'fc' if layer == 'three' else own}.") for name in factors.names)
    folded = {name: each[0] for name, each in factors.weights(torch.tensor([[0.5]])).items()}
    end = next(each.end for each in model.layers if each.name == layer)
    louder = torch.tensor([1, 1.5, 1, 1, 1][: 5 if layer == "three" else 4])[:, None, None]
    with torch.no_grad():
        wanted = model.scores(images / 255, Asked(change={end: lambda values: values * louder}))
        assert torch.allclose(model.scores(images / 255, Asked(weights=folded)), wanted, atol=1e-5)
        assert not torch.allclose(model.scores(images / 255, Asked()), wanted, atol=1e-3)


def test_names_lead_back_to_neurons():
    assert Neuron.of(Neuron("model.conv1", 12).name) == Neuron("model.conv1", 12)
    with pytest.raises(ValueError, match="as in conv1#3"):
        Neuron.of("conv1")


def _columns(examples: Examples) -> tuple[Tensor, Tensor]:
    return examples.images, examples.targets


def test_images_are_as_wide_as_the_networks_take():
    assert shown(Hidden(), 2, 0).images.shape == (2, 1, 1, PIXELS)
