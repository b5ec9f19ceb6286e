import pytest
import torch

from experiments.catalogue import NETWORKS
from experiments.networks import ARCHITECTURES, Normalize


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_and_student_maps_images_to_ten_scores(name):
    architecture = ARCHITECTURES[name]
    images = torch.rand(3, *architecture.shape, generator=torch.Generator().manual_seed(0))
    for build in (architecture.original, architecture.student):
        with torch.inference_mode():
            scores = build().eval()(images)
        assert scores.shape == (3, 10)
        assert scores.isfinite().all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_student_has_at_most_an_eighth_of_the_parameters(name):
    architecture = ARCHITECTURES[name]
    assert count(architecture.student()) <= count(architecture.original()) / 8


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("digits_cnn", 160 + 4640 + 16416 + 330),
        ("lenet1", 7206),  # DeepXplore's, that DFLARE took over
        ("lenet5", 61_706),  # the usual count for LeNet-5 with a full second convolution
        ("resnet20", 269_722 + (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)),  # He et al.'s, and two 1 x 1 shortcuts
        ("plainnet20", 269_722),
        ("vgg16", 14_724_042),
    ],
)
def test_networks_have_the_known_number_of_parameters(name, parameters):
    assert count(ARCHITECTURES[name].original()) == parameters


def test_networks_normalise_themselves():
    images = torch.full((1, 3, 2, 2), 0.5)
    shifted = Normalize((0.5, 0.25, 0.0), (1.0, 0.5, 0.25))(images)
    assert shifted[0, :, 0, 0].tolist() == [0.0, 0.5, 2.0]
    for architecture in ARCHITECTURES.values():
        assert isinstance(next(architecture.original().children()), Normalize)


def test_every_row_of_the_zoo_names_a_network():
    assert {network.architecture for network in NETWORKS.values()} == set(ARCHITECTURES)
