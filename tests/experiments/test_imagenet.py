import pytest
import torch

from dflare.errors import InputError
from experiments import imagenet
from experiments.catalogue import IMAGENET_NETWORKS
from experiments.imagenet import open_imagenet_pair


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("imagenet-resnet50-int8", 64), ("imagenet-inception_v3-int8", 75)])
def test_both_networks_score_a_thousand_classes(name, size, own_settings):
    engine = torch.backends.quantized.engine
    torch.use_deterministic_algorithms(True)  # as the command line does
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    for classifier in open_imagenet_pair(name, download=False, _pretrained=False):
        scores = classifier(images)
        assert scores.shape == (2, 1000)
        assert scores.dtype == torch.float32
        assert scores.isfinite().all()
    assert torch.backends.quantized.engine == engine
    assert torch.are_deterministic_algorithms_enabled()


def test_every_network_of_the_table_can_be_opened():
    assert set(imagenet._MODELS) == set(IMAGENET_NETWORKS)
    for model in imagenet._MODELS.values():
        weights = getattr(imagenet.models.quantization, model.quantized_weights).DEFAULT
        assert hasattr(imagenet.models, model.builder)
        assert hasattr(imagenet.models.quantization, model.builder)
        assert weights.meta["backend"] == "fbgemm"
        assert weights.meta["unquantized"].url.endswith(".pth")


@pytest.mark.slow
def test_weights_are_not_fetched_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"pair\.download=true"):
        open_imagenet_pair("imagenet-resnet50-int8", download=False)
    assert list(tmp_path.iterdir()) == []


def test_grey_images_and_other_pairs_are_refused():
    with pytest.raises(InputError, match="3, height, width"):
        imagenet.ImageNetClassifier(torch.nn.Identity())(torch.rand(1, 1, 8, 8))
    with pytest.raises(InputError, match="built from files"):
        open_imagenet_pair("digits-cnn-int8", download=False)


def test_a_float_network_moves_to_another_device_and_an_int8_one_says_why_it_stays():
    meta = torch.device("meta")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16, 5))
    moving = imagenet.ImageNetClassifier(network)
    assert moving.to(meta) is None
    assert moving(torch.rand(2, 3, 4, 4, device=meta)).device == meta
    with imagenet._quantizing():
        staying = imagenet.ImageNetClassifier(torch.ao.nn.quantized.Quantize(1.0, 0, torch.quint8))
    assert staying.to(meta) == "torch has no GPU kernels for torchvision's int8 networks"
    assert staying.to(torch.device("cpu")) is None
