import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dflare.classifiers import to_unit
from dflare.errors import InputError
from dflare.models.exported import ExportedClassifier, batch_range, load_program
from experiments.cache import cached
from experiments.catalogue import FORMS, NETWORKS, Recipe, check_pair_name, data_of, is_imagenet, pair_names
from experiments.compress import SPARSITY, Training, make_pruned, save_exported, seeded, sparsity
from experiments.data import Data, load_data
from experiments.networks import ARCHITECTURES
from experiments.settings import load_config, shipped_configs
from experiments.training import Batches, train, vary
from experiments.zoo import build_pair
from repair.data import Examples


def small_digits() -> Data:
    data = load_data("digits")
    assert data.train_labels is not None
    assert data.test_images is not None
    assert data.test_labels is not None
    train_images, train_labels = data.train_images[:100], data.train_labels[:100]
    return Data("digits", data.class_names, train_images, train_labels, data.test_images[:50], data.test_labels[:50])


def examples(n: int = 60) -> Examples:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 1, 16, 16), dtype=torch.uint8, generator=generator)
    return Examples(images, torch.eye(10)[torch.randint(0, 10, (n,), generator=generator)])


def test_the_names_are_those_of_the_table():
    assert len(pair_names()) == len(set(pair_names())) == 7 * 3 + 3
    assert {"digits-cnn-distilled", "mnist-lenet5-pruned", "cifar10-vgg16-int8"} <= set(pair_names())
    assert data_of("fashion_mnist-resnet8-int8") == "fashion_mnist"
    assert data_of("imagenet-resnet50-int8") == "imagefolder"
    assert is_imagenet("imagenet-resnet50-int8")
    assert not is_imagenet("imagenet-resnet50-pruned")


def test_a_wrong_name_lists_the_nearest_right_ones():
    with pytest.raises(InputError, match="digits-cnn-distilled"):
        check_pair_name("digit-cnn-destilled")


def test_names_are_known_without_importing_torch():
    code = "import sys, experiments.zoo as z; z.pair_names(); print('torch' in sys.modules, 'numpy' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_configuration_loads_and_fits_its_pair(name):
    settings = load_config([name])
    assert settings.pair.name in pair_names()
    assert settings.pair.name.startswith(name)
    assert settings.data.name == data_of(settings.pair.name)
    assert settings.data.download is settings.pair.download is False


def test_every_network_of_the_zoo_has_a_configuration():
    assert set(NETWORKS) <= set(shipped_configs())
    assert {name.removesuffix("-int8") for name in pair_names() if is_imagenet(name)} <= set(shipped_configs())


def test_images_shift_within_bounds_and_black_comes_in():
    image = torch.zeros(1, 1, 7, 7)
    image[0, 0, 3, 3] = 1
    moved = vary(image.expand(200, -1, -1, -1), 2, False, torch.Generator().manual_seed(0))
    rows, columns = moved.flatten(1).argmax(1) // 7, moved.flatten(1).argmax(1) % 7
    assert (moved.flatten(1).sum(1) == 1).all()
    assert set(rows.tolist()) == set(columns.tolist()) == {1, 2, 3, 4, 5}


def test_channels_move_together_and_half_of_the_images_are_mirrored():
    images = torch.rand(400, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    varied = vary(images, 0, True, torch.Generator().manual_seed(0))
    mirrored = (varied == images.flip(3)).flatten(1).all(1)
    assert ((varied == images).flatten(1).all(1) | mirrored).all()
    assert abs(int(mirrored.sum()) - 200) < 5 * 10
    grey = images[:, :1].expand(-1, 3, -1, -1)
    shifted = vary(grey, 1, True, torch.Generator().manual_seed(0))
    assert torch.equal(shifted[:, 0], shifted[:, 2])


def test_no_variation_leaves_images_alone():
    images = torch.rand(4, 1, 5, 5)
    assert vary(images, 0, False, torch.Generator()) is images


def test_one_pass_of_batches_shows_every_image_once():
    given = examples(60)
    batches = list(Batches(given, Recipe(3, 20, 1e-3), seed=0))
    seen = torch.cat([batch.images for batch in batches]).flatten(1).sum(1).sort().values
    assert torch.equal(seen, to_unit(given.images).flatten(1).sum(1).sort().values)
    assert not any(batch.is_trigger.any() for batch in batches)


def test_training_repeats_itself_silently_and_leaves_global_randomness_alone(capfd):
    states = []
    before = torch.random.get_rng_state()
    for _ in range(2):
        model = seeded(ARCHITECTURES["digits_cnn"].student, 3)
        train(model, examples(), Recipe(3, 16, 1e-3, shift=1), seed=5)
        states.append(model.state_dict())
        assert not model.training
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")


def test_training_fits_what_it_is_shown_and_another_seed_ends_elsewhere():
    given, models = examples(40), []
    for seed in (0, 1):
        model = seeded(ARCHITECTURES["digits_cnn"].original, 0)
        train(model, given, Recipe(120, 20, 3e-3), seed=seed)
        with torch.inference_mode():
            agrees = model(to_unit(given.images)).argmax(1) == given.targets.argmax(1)
        assert agrees.float().mean() > 0.95  # noise with random labels: learned by heart
        models.append(model)
    assert not torch.equal(models[0][1].weight, models[1][1].weight)


def test_pruning_takes_the_smallest_weights_and_leaves_the_original_alone():
    original = seeded(ARCHITECTURES["resnet8"].student, 0).eval()
    before = {name: value.clone() for name, value in original.state_dict().items()}
    images = torch.randint(0, 256, (32, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pruned = make_pruned(original, Recipe(2, 16, 1e-4), Training(images, seed=0))
    assert all(torch.equal(before[name], value) for name, value in original.state_dict().items())
    assert sparsity(original) == 0
    assert sparsity(pruned) == pytest.approx(SPARSITY, abs=5e-3)
    weights = zip(original.parameters(), pruned.parameters(), strict=True)
    for whole, rest in ((a.abs(), b) for a, b in weights if a.ndim > 1):
        assert whole[rest == 0].max() <= whole[rest != 0].min()


@pytest.mark.parametrize("name", ["digits_cnn", "lenet5", "plainnet20", "resnet8"])
@pytest.mark.slow
def test_a_written_model_answers_as_the_one_in_memory_at_any_batch_size(name, tmp_path):
    architecture = ARCHITECTURES[name]
    model, path = seeded(architecture.student, 0).eval(), tmp_path / "model.pt2"
    save_exported(model, architecture.shape, path)
    images = torch.rand(5, *architecture.shape, generator=torch.Generator().manual_seed(0))
    opened = ExportedClassifier(path)
    assert batch_range(load_program(path), path) == (1, 65_536)
    with torch.inference_mode():
        for part in (images, images[:1]):
            torch.testing.assert_close(opened(part), model(part))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pt2"]
    program = load_program(path)
    assert program.example_inputs is not None
    assert program.example_inputs[0][0].untyped_storage().nbytes() == 2 * 4 * images[0].numel()  # no data set inside


def test_an_interrupted_build_leaves_no_entry(tmp_path):
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, "model", "a", fail)
    assert list(tmp_path.iterdir()) == []


def test_of_two_builds_side_by_side_the_first_stays(tmp_path):
    def first(folder: Path) -> None:
        (folder / "by").write_text("first")

    def second(folder: Path) -> None:
        cached(tmp_path, "model", "a", first)
        (folder / "by").write_text("second")

    entry = cached(tmp_path, "model", "a", second)
    assert (entry / "by").read_text() == "first"
    assert list(tmp_path.iterdir()) == [entry]
    assert cached(tmp_path, "model", "b", first) != entry


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        cached(tmp_path / "file", "model", "a", lambda folder: None)


@pytest.mark.slow
def test_a_pair_is_built_once_and_measured(tmp_path):
    data = small_digits()
    pair = build_pair("digits-cnn-pruned", data, tmp_path, fast_dev=True)
    measured = json.loads((pair.compressed.parent / "measured.json").read_text())
    assert set(measured) == {"original", "pruned", "test_images"}
    assert measured["pruned"]["sparsity"] >= 0.8
    assert measured["pruned"]["bytes"] == pair.compressed.stat().st_size
    times = [path.stat().st_mtime_ns for path in (pair.original, pair.compressed)]
    again = build_pair("digits-cnn-pruned", data, tmp_path, fast_dev=True)
    other = build_pair("digits-cnn-distilled", data, tmp_path, fast_dev=True)
    assert again == pair
    assert other.original == pair.original
    assert [path.stat().st_mtime_ns for path in (pair.original, pair.compressed)] == times


@pytest.mark.slow
def test_other_images_or_labels_make_another_pair(tmp_path):
    data = small_digits()
    assert data.train_labels is not None
    fewer = Data("digits", (), data.train_images[1:], data.train_labels[1:], data.test_images, data.test_labels)
    wrong = Data("digits", (), data.train_images, data.train_labels.flip(0), data.test_images, data.test_labels)
    pairs = [build_pair("digits-cnn-distilled", given, tmp_path, fast_dev=True) for given in (data, fewer, wrong)]
    assert len({pair.original for pair in pairs}) == len({pair.compressed for pair in pairs}) == 3


def test_a_pair_is_made_from_its_own_data_only(tmp_path):
    with pytest.raises(InputError, match=r"made from mnist \(data\.name\), got digits"):
        build_pair("mnist-lenet5-int8", small_digits(), tmp_path)
    with pytest.raises(InputError, match="pretrained pair"):
        build_pair("imagenet-resnet50-int8", small_digits(), tmp_path)


@pytest.mark.slow
def test_the_pairs_of_the_digits_are_as_good_as_they_should_be(tmp_path):
    data, measured = load_data("digits"), {}
    for form in FORMS:
        if form == "int8":
            pytest.importorskip("onnxruntime", reason="int8 needs the extra dflare[onnx]")
        pair = build_pair(f"digits-cnn-{form}", data, tmp_path)
        measured[form] = json.loads((pair.compressed.parent / "measured.json").read_text())
    original = json.loads((pair.original.parent / "measured.json").read_text())["original"]
    assert original["accuracy"] >= 0.97
    assert measured["distilled"]["distilled"]["accuracy"] >= 0.93
    assert measured["distilled"]["distilled"]["parameters"] <= original["parameters"] / 8
    assert measured["pruned"]["pruned"]["accuracy"] >= 0.95
    assert measured["pruned"]["pruned"]["sparsity"] >= 0.8
    assert measured["int8"]["int8"]["accuracy"] >= 0.97
    assert measured["int8"]["int8"]["bytes"] < original["bytes"] / 2
