"""State dicts from files: they fit or are refused with the names that do not, and no pickle is executed."""

import json
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dflare.classifiers import ask
from dflare.errors import InputError
from dflare.models.weights import load_weights

BENCH = Path(os.environ.get("DFLARE_BENCH", Path(__file__).parents[2].parent / "shared"))


class Touch:
    """A pickle of it makes a file when it is executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 3)).eval()


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in network(1).state_dict().items()}


# --- what is read ---


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize(
    "content",
    [
        prefixed(""),
        prefixed("module."),
        prefixed("model."),
        prefixed("module.model."),
        {"state_dict": prefixed("module."), "epoch": 3, "best": 91.7},
        {"model": prefixed(""), "optimizer": {"lr": 0.1, "params": [1, 2]}},
        {"model_state_dict": prefixed("model."), "args": None},
        {name: tensor.double() for name, tensor in prefixed("").items() if tensor.ndim},
    ],
    ids=["plain", "module.", "model.", "module.model.", "state_dict", "model", "model_state_dict", "double"],
)
def test_a_state_dict_is_found_wherever_training_scripts_put_it(tmp_path, content, new):
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=new)
    module = network(2)
    assert not same(module, network(1))
    load_weights(tmp_path / "w.pt", module)
    assert same(module, network(1))


def test_a_prefix_stays_where_the_network_has_it_too(tmp_path):
    torch.save(prefixed("model."), tmp_path / "w.pt")
    module = nn.ModuleDict({"model": network(2)})
    load_weights(tmp_path / "w.pt", module)
    assert same(module, network(1))


def test_the_counter_of_batch_normalisation_may_be_missing(tmp_path):
    content = prefixed("")
    del content["1.num_batches_tracked"]
    torch.save(content, tmp_path / "w.pt")
    module = network(2)
    load_weights(tmp_path / "w.pt", module)
    assert same(module, network(1))


def test_loading_leaves_the_random_generator_and_the_training_mode_alone(tmp_path):
    torch.save(prefixed(""), tmp_path / "w.pt")
    module, before = network(2).train(), torch.get_rng_state()
    load_weights(tmp_path / "w.pt", module)
    assert torch.equal(torch.get_rng_state(), before)
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())


# --- what does not fit ---


def changed(name: str, make: Callable[[Tensor], object]) -> dict[str, object]:
    return {key: make(value) if key == name else value for key, value in prefixed("").items()}


UNFIT: dict[str, tuple[object, str]] = {
    "missing": (
        {name: value for name, value in prefixed("").items() if not name.startswith("1.")},
        r"but they lack 1\.weight, 1\.bias, 1\.running_mean and 1 more$",
    ),
    "unexpected": (
        prefixed("") | {"x": torch.zeros(1), "y": torch.zeros(1)},
        r"but they have x, y, which it has not$",
    ),
    "others": (
        {"0.weights": torch.zeros(2, 1, 3, 3)},
        r"lack 0\.weight, 0\.bias, 1\.weight and \d more and have 0\.weights, which it has not$",
    ),
    "shape": (
        changed("0.weight", lambda value: value.new_zeros(4, 1, 3, 3)),
        r"but 0\.weight has the shape \(4, 1, 3, 3\) in place of \(2, 1, 3, 3\)$",
    ),
    "NaN": (changed("3.bias", lambda value: value * torch.nan), r"must be finite, but 3\.bias has NaN or infinity$"),
    "infinity": (changed("3.bias", lambda value: value + torch.inf), r"must be finite, but 3\.bias has NaN"),
    "beyond float32": (changed("3.bias", lambda value: value.double() + 1e300), r"must be finite, but 3\.bias has"),
    "integers": (changed("3.bias", lambda value: value.to(torch.int8)), r"but 3\.bias is int8 in place of float32"),
    "complex": (changed("3.bias", lambda value: value.to(torch.complex64)), r"but 3\.bias is complex64 in place"),
    "sparse": (changed("3.weight", lambda value: value.to_sparse()), r"3\.weight is float32 .* sparse or without num"),
    "meta": (changed("3.weight", lambda value: value.to("meta")), r"3\.weight is float32 .* sparse or without num"),
    "text": (changed("3.bias", lambda value: "?"), r"must hold nothing but tensors, it also holds 3\.bias$"),
    "a list": ([torch.zeros(1)], r"expected a state dict in .*, tensors by name, got a list$"),
    "nothing": ({}, r"expected a state dict in .*, tensors by name, got a dict$"),
    "a tensor": (torch.zeros(3), r"expected a state dict in .*, tensors by name, got a Tensor$"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_is_named_and_the_network_stays_as_it_was(tmp_path, case):
    content, words = UNFIT[case]
    torch.save(content, tmp_path / "w.pt")
    module = network(2)
    with pytest.raises(InputError, match=words) as caught:
        load_weights(tmp_path / "w.pt", module)
    assert str(tmp_path / "w.pt") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert same(module, network(2))


def test_a_view_that_claims_more_numbers_than_there_are_is_refused_by_its_shape(tmp_path):
    torch.save(changed("3.bias", lambda value: torch.zeros(1).expand(10**9)), tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"3\.bias has the shape \(1000000000,\) in place of \(3,\)"):
        load_weights(tmp_path / "w.pt", network())


# --- pickles ---


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize("place", ["alone", "beside", "nested"])
def test_what_would_have_to_be_executed_is_refused_and_is_not(tmp_path, place, new):
    touched = Touch(tmp_path / "touched")
    content = {
        "alone": touched,
        "beside": prefixed("") | {"x": touched},
        "nested": {"model": prefixed(""), "x": touched},
    }
    torch.save(content[place], tmp_path / "w.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(InputError, match=r"w\.pt must hold nothing but tensors: save the state dict alone") as caught:
        load_weights(tmp_path / "w.pt", network())
    assert "\n" not in str(caught.value)
    assert not touched.path.exists()
    torch.load(tmp_path / "w.pt", weights_only=False)
    assert touched.path.exists()  # it would have been


def test_a_whole_pickled_network_is_refused(tmp_path):
    torch.save(network(), tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"must hold nothing but tensors: save the state dict alone"):
        load_weights(tmp_path / "w.pt", network())


def test_another_pickle_is_refused(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(InputError, match=r"must hold nothing but tensors|cannot be read"):
        load_weights(tmp_path / "w.pt", network())


def test_weights_dressed_as_a_program_are_not_run_as_one(tmp_path):
    touched = Touch(tmp_path / "touched")
    torch.save({"x": touched}, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt", "a") as archive:
        archive.writestr("w/constants.pkl", pickle.dumps(touched))
    with pytest.raises(InputError) as caught:
        load_weights(tmp_path / "w.pt", network())
    assert "\n" not in str(caught.value)
    assert not touched.path.exists()


# --- files ---


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.99])
def test_a_file_that_is_cut_off_is_refused(tmp_path, share, new):
    path = tmp_path / "w.pt"
    torch.save(prefixed(""), path, _use_new_zipfile_serialization=new)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    module = network(2)
    with pytest.raises(InputError) as caught:
        load_weights(path, module)
    assert "\n" not in str(caught.value)
    assert same(module, network(2))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x1c\x00\x00\x00TFL3", "looks like a model of format litert"),
        (b"<html>", "looks like a web page"),
        (b"\x89HDF\r\n\x1a\n", "looks like an HDF5 file"),
        (b"", "the file is empty"),
    ],
)
def test_a_file_without_weights_is_named(tmp_path, content, words):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(InputError, match=words):
        load_weights(tmp_path / "w.pt", network())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.pt, found none"):
        load_weights(tmp_path / "gone.pt", network())


def test_a_bomb_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("w/data.pkl", bytes(80 * 2**20))
    with pytest.raises(InputError, match="which no model does; it is not opened"):
        load_weights(tmp_path / "w.pt", network())


# --- safetensors ---


def write_safetensors(path: Path, state: dict[str, Tensor]) -> None:
    """The format: length of the header, the header in JSON, the numbers."""
    kinds = {torch.float32: "F32", torch.int64: "I64"}
    header, numbers = {}, b""
    for name, tensor in state.items():
        content = tensor.numpy().tobytes()
        place = [len(numbers), len(numbers) + len(content)]
        header[name] = {"dtype": kinds[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        numbers += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + numbers)


def test_safetensors_are_read_where_the_package_is_there(tmp_path):
    pytest.importorskip("safetensors")
    write_safetensors(tmp_path / "w", prefixed("module."))
    module = network(2)
    load_weights(tmp_path / "w", module)
    assert same(module, network(1))
    (tmp_path / "w").write_bytes((tmp_path / "w").read_bytes()[:-40])
    with pytest.raises(InputError, match="cannot be read"):
        load_weights(tmp_path / "w", module)


def test_safetensors_without_the_package_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    write_safetensors(tmp_path / "w.safetensors", prefixed(""))
    with pytest.raises(InputError, match="needs the package safetensors, which is missing: pip install safetensors"):
        load_weights(tmp_path / "w.safetensors", network())


# --- a real one ---


class Residual(nn.Module):
    """Two 3 x 3 convolutions and a shortcut without parameters (option A of He et al., 2016)."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.stride = 1 if inside == outside else 2
        self.conv1 = nn.Conv2d(inside, outside, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)

    def forward(self, features: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.bn1(self.conv1(features)).relu()))
        missing = out.shape[1] - features.shape[1]
        around = features[:, :, :: self.stride, :: self.stride]
        return (out + nn.functional.pad(around, (0, 0, 0, 0, missing // 2, missing // 2))).relu()


class ResNet20(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Residual(16, 16) for _ in range(3)))
        self.layer2 = nn.Sequential(*(Residual(32 if block else 16, 32) for block in range(3)))
        self.layer3 = nn.Sequential(*(Residual(64 if block else 32, 64) for block in range(3)))
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = self.bn1(self.conv1(images)).relu()
        return self.linear(self.layer3(self.layer2(self.layer1(features))).mean((2, 3)))


@pytest.mark.slow
def test_a_published_resnet_has_its_published_accuracy():
    path = BENCH / "models" / "akamaster" / "resnet20-12fca82f.th"
    if not path.is_file() or not (BENCH / "data" / "cifar10").is_dir():
        pytest.skip(f"the ResNet-20 of akamaster and CIFAR-10 are not in {BENCH} (environment variable DFLARE_BENCH)")
    mosaic = np.array(Image.open(BENCH / "data/cifar10/cifar10_test_00.webp").convert("RGB")).reshape(
        50, 32, 100, 32, 3
    )
    images = torch.from_numpy(mosaic[:10].transpose(0, 2, 4, 1, 3).reshape(1000, 3, 32, 32).copy())
    labels = torch.from_numpy(np.load(BENCH / "data/cifar10/cifar10_labels.npz")["test_y"][:1000].astype(np.int64))
    module = ResNet20().eval()
    load_weights(path, module)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    scores = ask(lambda pixels: module((pixels - mean[:, None, None]) / std[:, None, None]), images)
    right = int((scores.argmax(-1) == labels).sum())
    assert 917 - 26 <= right <= 917 + 26  # 91.73 % of 10,000; three standard deviations of 1,000 images
