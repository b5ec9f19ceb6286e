import io
import os
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dflare.errors import InputError
from experiments import array_files
from experiments.data import Data, load_data


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def read(path: Path, **options: Any) -> Data:
    return load_data("arrays", str(path), **options)


def packed(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def plain(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def labels_of(data: Data) -> list[int]:
    assert data.train_labels is not None
    return data.train_labels.tolist()


def test_arrays_named_as_keras_does_are_read(tmp_path):
    images, labels = noise(10, 5, 6), np.arange(10).astype(np.uint8)
    path = packed(tmp_path / "mnist.npz", x_train=images[:6], y_train=labels[:6], x_test=images[6:], y_test=labels[6:])
    data = read(path)
    assert data.test_images is not None
    assert data.test_labels is not None
    assert torch.equal(data.train_images, torch.from_numpy(images[:6, None]))
    assert torch.equal(data.test_images, torch.from_numpy(images[6:, None]))
    assert labels_of(data) == list(range(6))
    assert data.test_labels.tolist() == [6, 7, 8, 9]
    assert data.class_names == tuple("0123456789")


def test_arrays_named_as_medmnist_does_are_read(tmp_path):
    splits = {"train": 4, "val": 3, "test": 2}
    arrays = {f"{split}_images": noise(n, 5, 5, 3) for split, n in splits.items()}
    arrays |= {f"{split}_labels": np.arange(n)[:, None] for split, n in splits.items()}
    data = read(packed(tmp_path / "a.npz", **arrays))
    assert data.test_images is not None
    assert (len(data.train_images), len(data.test_images)) == (4, 2)
    assert labels_of(data) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("images", "labels"), [("images", "labels"), ("X", "y"), ("data", "targets"), ("images_train", "labels_train")]
)
def test_other_usual_names_are_known(tmp_path, images, labels):
    path = packed(tmp_path / "a.npz", **{images: noise(5, 4, 4), labels: np.arange(5), "notes": np.zeros(3)})
    data = read(path)
    assert labels_of(data) == [0, 1, 2, 3, 4]
    assert data.test_images is None


def test_a_single_array_is_images_whatever_its_name(tmp_path):
    np.savez(tmp_path / "a.npz", noise(5, 4, 4))  # arr_0
    data = read(tmp_path / "a.npz")
    assert data.train_labels is None
    assert data.class_names == ()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["uint8", "float16", "float32", ">f4", "float64"])
@pytest.mark.parametrize("layout", ["nhw", "nhwc", "nchw", "nhw1", "n1hw"])
def test_every_layout_type_and_order_comes_out_the_same(tmp_path, layout, kind, order, compressed):
    pixels = noise(9, 1 if "c" not in layout else 3, 5, 6)
    shown = pixels.transpose(0, 2, 3, 1) if layout in ("nhwc", "nhw1") else pixels[:, 0] if layout == "nhw" else pixels
    values = shown if kind == "uint8" else (shown / 255).astype(kind)
    (np.savez_compressed if compressed else np.savez)(tmp_path / "a.npz", images=np.asarray(values, order=order))
    np.save(tmp_path / "a.npy", np.asarray(values, order=order))
    for ending in ("npz", "npy"):
        data = read(tmp_path / f"a.{ending}")
        assert data.train_images.dtype == torch.uint8
        assert torch.equal(data.train_images, torch.from_numpy(pixels))


def test_arrays_larger_than_a_block_are_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(array_files, "_BLOCK", 100)
    images = noise(50, 4, 6, 3)
    np.savez_compressed(tmp_path / "a.npz", images=images / 255, labels=np.arange(50))
    data = read(tmp_path / "a.npz")
    assert torch.equal(data.train_images, torch.from_numpy(images).permute(0, 3, 1, 2))
    assert labels_of(data) == list(range(50))


def test_an_unpacked_file_is_mapped_and_never_written_to(tmp_path):
    path = plain(tmp_path / "a.npy", noise(2000, 1, 64, 64))
    before = path.read_bytes()
    tracemalloc.start()
    images = read(path).train_images
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    images.zero_()
    assert path.read_bytes() == before


def test_labels_may_lie_beside_an_unpacked_file(tmp_path):
    path = plain(tmp_path / "a.npy", noise(5, 4, 4))
    assert read(path).train_labels is None
    plain(tmp_path / "labels.npy", np.array([0, 1, 2, 3, 4]))
    assert labels_of(read(path)) == [0, 1, 2, 3, 4]
    plain(tmp_path / "a_labels.npy", np.array([4, 3, 2, 1, 0]))
    assert labels_of(read(path)) == [4, 3, 2, 1, 0]


def test_a_folder_of_arrays_is_read_by_their_files_names(tmp_path):
    for name, array in (("x_train", noise(5, 4, 4)), ("y_train", np.arange(5)), ("x_test", noise(2, 4, 4))):
        plain(tmp_path / f"{name}.npy", array)
    data = load_data(None, str(tmp_path))
    assert data.name == "arrays"
    assert data.test_images is not None
    assert data.test_labels is None
    assert labels_of(data) == [0, 1, 2, 3, 4]
    packed(tmp_path / "a.npz", images=noise(5, 4, 4))
    with pytest.raises(InputError, match=r"one \.npz file, or \.npy files only, .* got 1 and 3; name the file"):
        read(tmp_path)


def test_a_folder_with_one_packed_file_is_that_file(tmp_path):
    packed(tmp_path / "a.npz", images=noise(5, 4, 4))
    assert len(read(tmp_path).train_images) == 5


def test_names_as_labels_are_sorted_classes_of_both_splits(tmp_path):
    names = {"y_train": np.array(["dog", "cat", "dog", "ape"]), "y_test": np.array(["cow", "cat", "cat", "cat"])}
    data = read(packed(tmp_path / "a.npz", x_train=noise(4, 4, 4), x_test=noise(4, 4, 4), **names))
    assert data.test_labels is not None
    assert data.class_names == ("ape", "cat", "cow", "dog")
    assert labels_of(data) == [3, 1, 3, 0]
    assert data.test_labels.tolist() == [2, 1, 1, 1]


def test_arrays_keep_their_size_unless_another_is_asked_for(tmp_path):
    path = plain(tmp_path / "a.npy", noise(5, 8, 8))
    assert read(path, fallback_size=(4, 4)).train_images.shape == (5, 1, 8, 8)
    assert read(path, image_size=(4, 6)).train_images.shape == (5, 1, 4, 6)


GOOD = noise(4, 5, 6)
BAD_ARRAYS: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "two dimensions": ({"images": noise(4, 25)}, r"images must be \(n, h, w\).* got \(4, 25\) in images"),
    "five dimensions": ({"images": noise(1, 2, 3, 4, 5)}, "images must be"),
    "one colour image": ({"images": noise(30, 30, 3)}, "may be a single image"),
    "one colour image, channels first": ({"images": noise(3, 30, 30)}, "may be a single image"),
    "one image with transparency": ({"images": noise(30, 30, 4)}, "may be a single image"),
    "four channels": ({"images": noise(4, 9, 9, 4)}, "with 1 or 3 channels"),
    "no clear channels": ({"images": noise(4, 3, 9, 3)}, "either may be the channels"),
    "no images": ({"images": noise(0, 9, 9)}, r"got \(0, 9, 9\)"),
    "integers": ({"images": GOOD.astype(np.int64)}, r"uint8, or floats in \[0, 1\], got int64 in images"),
    "truth values": ({"images": GOOD > 9}, "got bool"),
    "complex numbers": ({"images": GOOD.astype(np.complex64)}, "got complex64"),
    "floats to 255": ({"images": GOOD.astype(np.float32)}, "values from .* to 2.* in images"),
    "centred floats": ({"images": (GOOD / 255).astype(np.float32) - 0.5}, r"floats must be images in \[0, 1\]"),
    "floats between levels": ({"images": GOOD / 510}, "grey levels / 255, got .* between two"),
    "not a number": ({"images": np.where(GOOD > 99, np.nan, 0)}, "from nan to nan"),
    "infinity": ({"images": np.where(GOOD > 99, np.inf, 0)}, "to inf"),
    "fewer labels": ({"images": GOOD, "labels": np.arange(3)}, r"names \(4,\), one an image, got int64 \(3,\)"),
    "one-hot labels": ({"images": GOOD, "labels": np.eye(4)}, r"one an image, got float64 \(4, 4\)"),
    "labels as floats": ({"images": GOOD, "labels": np.arange(4.0)}, "got float64"),
    "negative labels": ({"images": GOOD, "labels": np.arange(4) - 1}, "counted from 0.* got -1"),
    "giant labels": ({"images": GOOD, "labels": np.arange(4) + 10**12}, "counted from 0, up to 99999"),
    "empty names": ({"images": GOOD, "labels": np.array(["a", "", "b", "c"])}, "entry 2 has none"),
    "unknown names": ({"a": GOOD, "b": GOOD}, "expected arrays images and labels, .* got a, b"),
    "no arrays": ({}, "got none"),
    "two kinds of names": ({"images": GOOD, "x_train": GOOD}, "expected arrays images and labels"),
    "one thing twice": ({"images": GOOD, "X": GOOD}, "expected one of the arrays .* got both"),
    "splits of two sizes": ({"x_train": GOOD, "x_test": noise(4, 5, 5)}, "must have one size"),
    "splits of two channels": ({"x_train": GOOD, "x_test": noise(4, 5, 6, 3)}, "must have one size"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_a_bad_array_is_one_sentence(tmp_path, name):
    arrays, complaint = BAD_ARRAYS[name]
    path = packed(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=complaint) as error:
        read(path)
    assert "\n" not in str(error.value)


class Intruder:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("intruded",)


def test_objects_are_refused_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objects = np.array([Intruder()] * 4, dtype=object)
    np.save("a.npy", objects, allow_pickle=True)
    np.savez("a.npz", images=GOOD, labels=objects)
    np.savez("only.npz", objects)
    for name in ("a.npy", "a.npz", "only.npz"):
        with pytest.raises(InputError, match="got Python objects, which are never loaded"):
            read(tmp_path / name)
    (tmp_path / "b.npy").write_bytes(b"cos\nmkdir\n(S'intruded'\ntR.")  # a bare pickle, which numpy.load would take
    with pytest.raises(InputError, match=r"NumPy can read at .*b\.npy"):
        read(tmp_path / "b.npy")
    assert not (tmp_path / "intruded").exists()


def header(shape: str, descr: str = "'|u1'", version: bytes = b"\1\0") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text.encode()


HOSTILE_HEADERS = {
    "a giant shape": (header(f"({2**40}, 9, 9)"), "must hold .* bytes for uint8"),
    "a shape beyond 64 bits": (header(f"({2**62}, {2**62}, 9)"), "must hold .* bytes for uint8"),
    "a negative shape": (header("(-4, 5, -6)"), "one or more dimensions"),
    "no shape": (header("()"), "one or more dimensions"),
    "an expression": (header("(__import__('os').mkdir('intruded'), 1, 1)"), "NumPy can read"),
    "giant names": (header("(4, 5, 6)", f"'<U{2**28}'"), "must hold"),
    "names beyond 32 bits": (header("(4, 5, 6)", f"'<U{2**29}'"), "NumPy can read"),
    "columns": (header("(1,)", "[('a', '<f4')]"), "must hold"),
    "a type that is none": (header("(4, 5, 6)", "'<q9'"), "NumPy can read"),
    "a later version": (header("(4, 5, 6)", version=b"\2\0"), r"got \(2, 0\)"),
    "an unknown version": (header("(4, 5, 6)", version=b"\x09\0"), r"got \(9, 0\)"),
    "a long header": (b"\x93NUMPY\1\0\xff\xff" + b"(" * 65535, "NumPy can read"),
    "half a header": (header("(4, 5, 6)")[:40], "NumPy can read"),
    "nothing": (b"", "NumPy can read"),
}


@pytest.mark.parametrize("name", HOSTILE_HEADERS)
def test_a_hostile_header_is_one_sentence(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    content, complaint = HOSTILE_HEADERS[name]
    (tmp_path / "a.npy").write_bytes(content + bytes(100))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", content + bytes(100))
    for path in (tmp_path / "a.npy", tmp_path / "a.npz"):
        if name == "nothing":
            complaint = "NumPy can read|must hold"
        with pytest.raises(InputError, match=complaint) as error:
            read(path)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 600
    assert not (tmp_path / "intruded").exists()


def test_a_zip_bomb_is_refused_unread(tmp_path):
    np.savez_compressed(tmp_path / "bomb.npz", images=np.zeros((70, 1000, 1000), np.uint8))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"would grow from .* to 70000128 bytes, more than 200 times"):
        read(tmp_path / "bomb.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


def test_an_archive_that_understates_its_size_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=np.zeros((300, 100, 100), np.uint8))
    size = (300 * 100 * 100 + 128).to_bytes(4, "little")
    claimed = (4 * 100 * 100 + 128).to_bytes(4, "little")
    content = path.read_bytes()
    assert size in content
    path.write_bytes(content.replace(size, claimed))
    with pytest.raises(InputError, match=r"must hold 3000000 bytes .* but it holds 40000"):
        read(path)


def test_arrays_larger_than_memory_are_refused_unread(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", images=GOOD)
    monkeypatch.setattr("experiments.memory.available", lambda: 2 * GOOD.size - 1)
    with pytest.raises(InputError, match=r"fit in memory, but images in .* would take"):
        read(tmp_path / "a.npz")


def test_a_damaged_or_locked_archive_is_one_sentence(tmp_path):
    path = packed(tmp_path / "a.npz", images=noise(50, 20, 20))
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    (tmp_path / "flipped.npz").write_bytes(content)
    (tmp_path / "cut.npz").write_bytes(content[:5000])
    with zipfile.ZipFile(tmp_path / "odd.npz", "w", zipfile.ZIP_BZIP2) as archive:
        stream = io.BytesIO()
        np.save(stream, GOOD)
        archive.writestr("images.npy", stream.getvalue())
    locked = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        locked[locked.index(mark) + offset] |= 1
    (tmp_path / "locked.npz").write_bytes(locked)
    for name, complaint in {
        "flipped": "Bad CRC-32",
        "cut": "not a zip file",
        "odd": "another compression",
        "locked": "password required",
    }.items():
        with pytest.raises(InputError, match=complaint):
            read(tmp_path / f"{name}.npz")


def test_a_file_cut_short_or_lengthened_is_named(tmp_path):
    path = plain(tmp_path / "a.npy", GOOD)
    content = path.read_bytes()
    for changed, held in ((content[:-1], 119), (content + b"1", 121)):
        path.write_bytes(changed)
        with pytest.raises(InputError, match=rf"a\.npy must hold 120 bytes for uint8 \(4, 5, 6\), but it holds {held}"):
            read(path)


def test_a_missing_file_and_one_of_another_kind_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    for name in ("nowhere.npz", "a.txt"):
        with pytest.raises(InputError, match=rf"expected a \.npz or \.npy file at .*{name}"):
            read(tmp_path / name)
    with pytest.raises(InputError, match="got 0 and 0"):
        read(tmp_path)
