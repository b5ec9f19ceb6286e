import gzip
import io
import os
import pickle
import shutil
import tracemalloc
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from dflare.errors import InputError
from dflare.seeds import pixel_hash
from experiments.data import DATA_NAMES, Data, assign_sides, check_split, load_data
from experiments.readers import default_root

SPLIT = (0.6, 0.2, 0.2)
BENCH = Path(os.environ.get("DFLARE_BENCH") or Path(__file__).parents[2].parent / "shared") / "data"
needs_mnist = pytest.mark.skipif(not (BENCH / "MNIST").is_dir(), reason="MNIST is not in DFLARE_BENCH")
needs_cifar10 = pytest.mark.skipif(not (BENCH / "cifar10").is_dir(), reason="CIFAR-10 is not in DFLARE_BENCH")


def noise(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_digits_are_the_known_ones():
    data = load_data("digits")
    assert data.test_images is not None
    assert data.test_labels is not None
    assert data.train_labels is not None
    assert len(data.train_images) + len(data.test_images) == 1797
    assert data.train_images.shape[1:] == (1, 16, 16)
    assert data.train_images.dtype == torch.uint8
    assert (int(data.train_images.min()), int(data.train_images.max())) == (0, 255)
    counts = torch.cat([data.train_labels, data.test_labels]).bincount()
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # the set's own description


def test_digits_are_scans_at_twice_the_size():
    from sklearn.datasets import load_digits

    first = load_digits().images[0]
    data = load_data("digits")
    assert data.test_images is not None
    images = torch.cat([data.train_images, data.test_images]).double()
    means = torch.nn.functional.avg_pool2d(images, 2)[:, 0] * 16 / 255  # of the 2 x 2 pixels that replace one
    inner = means[:, 1:-1, 1:-1] - torch.from_numpy(blurred(first))
    assert inner.abs().flatten(1).amax(1).min() < 0.05


def blurred(scan: np.ndarray) -> np.ndarray:
    """What bilinear doubling and averaging pairs again does to inner pixels: weights 1/8, 3/4, 1/8 each way."""
    rows = scan[:-2] / 8 + scan[1:-1] * 3 / 4 + scan[2:] / 8
    return rows[:, :-2] / 8 + rows[:, 1:-1] * 3 / 4 + rows[:, 2:] / 8


def test_all_digits_differ_and_a_third_is_the_test_split():
    data = load_data("digits")
    assert data.test_images is not None
    ids = pixel_hash(torch.cat([data.train_images, data.test_images]))
    assert len(ids.unique()) == 1797
    assert (pixel_hash(data.test_images) % 3 == 0).all()
    assert abs(len(data.test_images) - 1797 / 3) < 3 * 20  # three standard deviations


@pytest.mark.slow
@needs_mnist
def test_mnist_is_read_from_its_archives():
    data = load_data("mnist", str(BENCH))
    assert data.test_images is not None
    assert data.train_labels is not None
    assert data.train_images.shape == (60_000, 1, 28, 28)
    assert data.test_images.shape == (10_000, 1, 28, 28)
    assert data.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.train_images.double().mean().item() / 255 == pytest.approx(0.1307, abs=1e-4)


@pytest.mark.slow
@needs_cifar10
def test_cifar10_is_read_from_mosaics():
    data = load_data("cifar10", str(BENCH))
    assert data.test_images is not None
    assert data.test_labels is not None
    assert data.train_images.shape == (20_000, 3, 32, 32)
    assert data.test_labels.bincount().tolist() == [1000] * 10
    assert data.test_labels[:5].tolist() == [3, 8, 8, 0, 6]  # cat, ship, ship, airplane, frog
    means = data.train_images.double().mean((0, 2, 3)) / 255
    assert means.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-3)


def write_idx(path: Path, values: np.ndarray) -> None:
    head = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    content = head + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def write_small_mnist(root: Path, ending: str) -> np.ndarray:
    images = noise(6).numpy()[:, 0]
    for split in ("train", "t10k"):
        write_idx(root / f"MNIST/raw/{split}-images-idx3-ubyte{ending}", images)
        write_idx(root / f"MNIST/raw/{split}-labels-idx1-ubyte{ending}", np.arange(6))
    return images


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files_are_read_packed_and_unpacked(tmp_path, ending):
    images = write_small_mnist(tmp_path, ending)
    data = load_data("mnist", str(tmp_path))
    assert data.train_labels is not None
    assert torch.equal(data.train_images[:, 0], torch.from_numpy(images))
    assert data.train_labels.tolist() == list(range(6))


def test_images_are_resized_on_request(tmp_path):
    write_small_mnist(tmp_path, ".gz")
    data = load_data("mnist", str(tmp_path), image_size=8)
    assert data.test_images is not None
    assert data.train_images.shape == data.test_images.shape == (6, 1, 8, 8)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"not gzip", "cannot be unpacked"), (gzip.compress(b"\0\0\x0d\3" + bytes(12), mtime=0), "expected an idx file")],
)
def test_a_broken_archive_is_named(tmp_path, content, complaint):
    write_small_mnist(tmp_path, ".gz")
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=complaint) as error:
        load_data("mnist", str(tmp_path))
    assert str(path) in str(error.value)


def test_a_file_cut_short_is_named(tmp_path):
    write_small_mnist(tmp_path, "")
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="must hold 96 bytes of data, it holds 95"):
        load_data("mnist", str(tmp_path))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_missing_data_names_the_path_and_the_key(tmp_path, name):
    with pytest.raises(InputError, match=r"data\.download=true") as error:
        load_data(name, str(tmp_path))
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_a_download_that_fails_is_one_sentence_and_is_tried_again(tmp_path, monkeypatch, name):
    import torchvision.datasets

    def unreachable(*arguments: object, **options: object) -> None:
        (tmp_path / "FashionMNIST/raw").mkdir(parents=True, exist_ok=True)
        (tmp_path / "cifar-10-batches-py").mkdir(exist_ok=True)
        raise RuntimeError("no\nnetwork")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", unreachable)
    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", unreachable)
    for _ in range(2):
        with pytest.raises(InputError, match=r"could not be downloaded .*\(no network\)"):
            load_data(name, str(tmp_path), download=True)


def test_the_default_folder_is_the_bench_only_where_it_holds_the_set(tmp_path, monkeypatch):
    write_small_mnist(tmp_path / "data", "")
    monkeypatch.setenv("DFLARE_BENCH", str(tmp_path))
    assert default_root("mnist") == tmp_path / "data"
    assert default_root("cifar10") == Path("data")
    monkeypatch.delenv("DFLARE_BENCH")
    assert default_root("mnist") == Path("data")


def test_an_unknown_set_lists_the_right_ones():
    with pytest.raises(InputError, match="digits, mnist, fashion_mnist, cifar10, imagefolder"):
        load_data("mnits")
    assert DATA_NAMES[-4:] == ("imagefolder", "images", "metadata", "arrays")


class Python2Pickler(pickle._Pickler):  # type: ignore[misc, name-defined]
    """Writes strings as Python 2 did, which the published batches were written by."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_string(self, value: str | bytes) -> None:
        content = value.encode() if isinstance(value, str) else value
        self.write(b"T" + len(content).to_bytes(4, "little") + content)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def write_batches(root: Path, content: object) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(content)
    written = buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(written)


def test_cifar10_is_read_from_its_python_batches(tmp_path):
    pixels = np.arange(2 * 3072, dtype=np.int64).astype(np.uint8).reshape(2, 3072)
    write_batches(tmp_path, {b"data": pixels, b"labels": [3, 9], b"filenames": [b"a", b"b"]})
    data = load_data("cifar10", str(tmp_path))
    assert data.train_labels is not None
    assert data.train_images.shape == (10, 3, 32, 32)
    assert torch.equal(data.train_images[1].flatten(), torch.from_numpy(pixels[1]))
    assert data.train_labels.tolist() == [3, 9] * 5


class Intruder:
    def __reduce__(self):
        return os.mkdir, ("intruded",)


def test_a_batch_that_wants_to_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_batches(tmp_path, {b"data": Intruder(), b"labels": []})
    with pytest.raises(InputError, match=r"data_batch_1.*mkdir"):
        load_data("cifar10", str(tmp_path))
    assert not (tmp_path / "intruded").exists()


def paint(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (12, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_an_image_folder_is_read_by_class_name(tmp_path):
    paint(tmp_path / "train/dog/1.png", (1, 2, 3))
    paint(tmp_path / "train/cat/1.png", (4, 5, 6))
    paint(tmp_path / "val/cat/1.png", (7, 8, 9))
    paint(tmp_path / "val/dog/1.png", (10, 11, 12), size=(8, 30))
    (tmp_path / "train/cat/.DS_Store").write_bytes(b"")
    data = load_data("imagefolder", str(tmp_path), image_size=8)
    assert data.test_images is not None
    assert data.train_labels is not None
    assert data.class_names == ("cat", "dog")
    assert data.train_images.shape == data.test_images.shape == (2, 3, 8, 8)
    assert data.train_images[:, :, 0, 0].tolist() == [[4, 5, 6], [1, 2, 3]]
    assert data.train_labels.tolist() == [0, 1]


def test_the_centre_of_an_image_is_kept(tmp_path):
    image = np.zeros((4, 12, 3), np.uint8)
    image[:, 4:8] = 255
    (tmp_path / "a").mkdir()
    Image.fromarray(image).save(tmp_path / "a/1.png")
    assert (load_data("imagefolder", str(tmp_path), image_size=4).train_images == 255).all()


def test_classes_without_a_test_split_and_images_without_classes_are_read(tmp_path):
    paint(tmp_path / "with/cat/1.png", (1, 1, 1))
    paint(tmp_path / "without/1.png", (1, 1, 1))
    classes, plain = (load_data("imagefolder", str(tmp_path / name)) for name in ("with", "without"))
    assert classes.test_images is None
    assert classes.class_names == ("cat",)
    assert plain.train_labels is None
    assert plain.class_names == ()
    assert plain.train_images.shape == (1, 3, 8, 12)


def test_a_file_that_is_no_image_is_named(tmp_path):
    paint(tmp_path / "cat/1.png", (1, 1, 1))
    (tmp_path / "cat/notes.png").write_text("hello")
    with pytest.raises(InputError, match=r"expected an image file at .*notes\.png"):
        load_data("imagefolder", str(tmp_path), image_size=8)


def test_an_image_cut_short_is_named(tmp_path):
    Image.fromarray(noise(1).numpy()[0, 0].repeat(16, 0).repeat(16, 1)).save(tmp_path / "1.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:80])
    with pytest.raises(InputError, match=r"1\.png"):
        load_data("imagefolder", str(tmp_path), image_size=8)


def test_images_of_two_sizes_need_an_image_size(tmp_path):
    paint(tmp_path / "cat/1.png", (1, 1, 1))
    paint(tmp_path / "cat/2.png", (1, 1, 1), size=(5, 5))
    with pytest.raises(InputError, match=r"12 x 8 pixels .* and 5 x 5 pixels"):
        load_data("imagefolder", str(tmp_path))


def test_an_empty_a_missing_and_an_unnamed_folder_are_refused(tmp_path):
    (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match=r"expected image files .* in .*cat, found none"):
        load_data("imagefolder", str(tmp_path))
    with pytest.raises(InputError, match="nowhere"):
        load_data("imagefolder", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"data\.root"):
        load_data("imagefolder")


@pytest.mark.slow
@needs_mnist
def test_mnist_in_one_file_of_arrays_is_mnist(tmp_path):
    data = load_data("mnist", str(BENCH))
    assert data.test_images is not None
    assert data.train_labels is not None
    assert data.test_labels is not None
    arrays = {
        "x_train": data.train_images[:, 0].numpy(),
        "y_train": data.train_labels.numpy(),
        "x_test": data.test_images[:, 0].numpy(),
        "y_test": data.test_labels.numpy(),
    }
    np.savez(tmp_path / "mnist.npz", **arrays)
    again = load_data(None, str(tmp_path))
    assert again.test_images is not None
    assert again.train_labels is not None
    assert torch.equal(again.train_images, data.train_images)
    assert torch.equal(again.test_images, data.test_images)
    assert torch.equal(again.train_labels, data.train_labels)
    assert again.class_names == data.class_names


def test_a_set_without_images_is_refused(tmp_path):
    write_small_mnist(tmp_path, "")
    write_idx(tmp_path / "MNIST/raw/train-images-idx3-ubyte", np.zeros((0, 4, 4)))
    write_idx(tmp_path / "MNIST/raw/train-labels-idx1-ubyte", np.zeros(0))
    with pytest.raises(InputError, match=r"split\.train leaves none of the 0"):
        assign_sides(load_data("mnist", str(tmp_path)), SPLIT)


def test_labels_beyond_the_classes_of_a_published_set_are_refused(tmp_path):
    write_small_mnist(tmp_path, "")
    write_idx(tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte", np.arange(5, 11))
    with pytest.raises(InputError, match=r"labels of mnist must be in \[0, 10\), got 5 to 10"):
        load_data("mnist", str(tmp_path))


def test_an_archive_that_unpacks_to_more_than_it_announces_is_refused_unread(tmp_path):
    write_small_mnist(tmp_path, ".gz")
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte.gz"
    head = bytes((0, 0, 8, 3)) + np.array((2, 4, 4), ">u4").tobytes()
    path.write_bytes(gzip.compress(head + bytes(2**27), mtime=0))
    tracemalloc.start()
    with pytest.raises(InputError, match="must hold 32 bytes of data, it holds more"):
        load_data("mnist", str(tmp_path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


def test_an_archive_that_announces_more_than_fits_in_memory_is_refused(tmp_path):
    write_small_mnist(tmp_path, ".gz")
    head = bytes((0, 0, 8, 3)) + np.array((2**32 - 1,) * 3, ">u4").tobytes()
    (tmp_path / "MNIST/raw/train-images-idx3-ubyte.gz").write_bytes(gzip.compress(head, mtime=0))
    with pytest.raises(InputError, match=r"fit in memory, but .*train-images-idx3-ubyte\.gz would take .* GiB"):
        load_data("mnist", str(tmp_path))


def test_a_damaged_archive_is_named(tmp_path):
    write_small_mnist(tmp_path, ".gz")
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[30:60] = bytes(30)
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be unpacked"):
        load_data("mnist", str(tmp_path))


def test_both_splits_must_hold_the_same_classes(tmp_path):
    paint(tmp_path / "train/cat/1.png", (1, 1, 1))
    shutil.copytree(tmp_path / "train/cat", tmp_path / "test/dog")
    with pytest.raises(InputError, match="differ in cat, dog"):
        load_data("imagefolder", str(tmp_path))


def test_sides_are_disjoint_complete_and_of_the_shares_asked_for():
    n = 5000
    sides = assign_sides(Data("noise", (), noise(n), None), SPLIT)
    assert len(torch.cat([side.ids for side in sides]).unique()) == sum(map(len, sides)) == n
    for side, share in zip(sides, SPLIT, strict=True):
        assert abs(len(side) - n * share) < 4 * (n * share * (1 - share)) ** 0.5
        assert torch.equal(side.ids, pixel_hash(side.images))
        assert side.labels is None


def test_an_image_keeps_its_side_and_place_in_any_order_and_company():
    images, labels = noise(400), torch.arange(400)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    plain = assign_sides(Data("noise", (), images, labels), SPLIT)
    mixed = assign_sides(Data("noise", (), images[order], labels[order]), SPLIT)
    fewer = assign_sides(Data("noise", (), images[:100], labels[:100]), SPLIT)
    for one, other, part in zip(plain, mixed, fewer, strict=True):
        assert one.labels is not None
        assert other.labels is not None
        assert torch.equal(one.ids, other.ids)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert torch.isin(part.ids, one.ids).all()


def test_repeated_images_count_once():
    images = noise(50)
    sides = assign_sides(Data("noise", (), torch.cat([images, images.flip(0)]), None), SPLIT)
    assert sum(map(len, sides)) == 50


def test_judge_is_the_official_test_split_and_nothing_of_it_is_trained_on():
    images, test = noise(3000), noise(100, seed=1)
    leaky = torch.cat([images, test[:40]])
    train, validate, judge = assign_sides(Data("noise", (), leaky, None, test, None), SPLIT)
    assert torch.equal(judge.ids, pixel_hash(test).sort().values)
    assert len(train) + len(validate) == 3000
    assert not torch.isin(torch.cat([train.ids, validate.ids]), judge.ids).any()
    assert abs(len(train) - 2250) < 4 * (3000 * 0.75 * 0.25) ** 0.5


@pytest.mark.parametrize(
    ("split", "key"),
    [
        ((0.0, 0.5, 0.5), r"split\.train must be above 0"),
        ((0.8, -0.1, 0.3), r"split\.validate must be above 0"),
        ((0.6, 0.4, float("nan")), r"split\.judge must be above 0"),
        ((0.6, 0.2, 0.3), r"must sum to 1, got 1\.1"),
    ],
)
def test_impossible_shares_are_refused(split, key):
    with pytest.raises(InputError, match=key):
        check_split(split)


def test_an_empty_side_is_refused():
    with pytest.raises(InputError, match=r"split\.\w+ leaves none of the"):
        assign_sides(Data("noise", (), noise(1), None), SPLIT)
