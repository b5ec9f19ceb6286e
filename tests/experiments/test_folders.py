import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dflare.errors import InputError
from experiments import images
from experiments.data import Data, load_data
from experiments.folders import find_images
from experiments.kinds import kind_of

RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


def paint(path: Path, colour: int | tuple[int, int, int] = RED, size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(colour, int) else "RGB", size, colour).save(path)


def corners(data: Data) -> list[list[int]]:
    return data.train_images[:, :, 0, 0].tolist()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def labels_of(data: Data) -> tuple[list[int], list[int]]:
    assert data.train_labels is not None
    assert data.test_labels is not None
    return data.train_labels.tolist(), data.test_labels.tolist()


def test_a_folder_of_photos_is_read_without_labels(tmp_path):
    paint(tmp_path / "b.JPG", 7)
    paint(tmp_path / "a.png", 5)
    paint(tmp_path / "holiday/c.bmp", 9)
    for name in ("README.txt", "Thumbs.db", ".DS_Store", ".hidden.png", "._a.png"):
        write(tmp_path / name, "no image")
    data = load_data("images", str(tmp_path))
    assert corners(data) == [[5], [7], [9]]
    assert data.train_labels is None
    assert data.test_images is None
    assert data.class_names == ()


def test_a_folder_of_photos_may_be_split(tmp_path):
    paint(tmp_path / "train/a.png", 5)
    paint(tmp_path / "test/b.png", 7)
    data = load_data("images", str(tmp_path))
    assert data.test_images is not None
    assert (corners(data), data.test_images[0, 0, 0, 0]) == ([[5]], 7)
    paint(tmp_path / "samples/c.png", 9)
    assert corners(load_data("images", str(tmp_path))) == [[5]]


def test_a_class_may_be_called_train(tmp_path):
    for place, name in enumerate(("car", "plane", "train")):
        paint(tmp_path / name / "1.png", place)
    data = load_data("imagefolder", str(tmp_path))
    assert data.class_names == ("car", "plane", "train")
    assert corners(data) == [[0], [1], [2]]


def test_folders_without_images_do_not_make_splits_classes(tmp_path):
    paint(tmp_path / "train/cat/1.png", 1)
    paint(tmp_path / "validation/cat/1.png", 2)
    write(tmp_path / "annotations/notes.txt", "hello")
    data = load_data("imagefolder", str(tmp_path))
    assert data.test_images is not None
    assert data.class_names == ("cat",)


def test_folders_beside_a_split_do_not_make_it_a_class(tmp_path):
    paint(tmp_path / "train/cat/1.png", 1)
    paint(tmp_path / "samples/1.png", 2)
    assert load_data("imagefolder", str(tmp_path)).class_names == ("cat",)
    paint(tmp_path / "val/cat/1.png", 3)
    data = load_data("imagefolder", str(tmp_path))
    assert data.test_images is not None
    assert (corners(data), len(data.test_images)) == ([[1]], 1)


def test_images_may_lie_deeper_in_their_class(tmp_path):
    paint(tmp_path / "n01/images/1.png", 1)  # as in Tiny ImageNet
    paint(tmp_path / "n02/images/1.png", 2)
    data = load_data("imagefolder", str(tmp_path))
    assert data.class_names == ("n01", "n02")
    assert corners(data) == [[1], [2]]


def test_links_are_followed_and_circles_end(tmp_path):
    paint(tmp_path / "elsewhere/1.png", 1)
    (tmp_path / "photos/cat").mkdir(parents=True)
    (tmp_path / "photos/cat/far").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "photos/cat/again").symlink_to(tmp_path / "photos", target_is_directory=True)
    (tmp_path / "photos/cat/2.png").symlink_to(tmp_path / "elsewhere/1.png")
    assert len(list(find_images(tmp_path / "photos/cat"))) == 2
    assert len(load_data("imagefolder", str(tmp_path / "photos")).train_images) == 2


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    paint(tmp_path / "cat/1.png")
    paint(tmp_path / "locked/1.png")
    scandir = os.scandir

    def guarded(path: str) -> object:
        if "locked" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(InputError, match=r"can be read at .*locked: Permission denied"):
        load_data("images", str(tmp_path))


def test_grey_images_stay_grey_unless_one_has_colour(tmp_path):
    paint(tmp_path / "train/1.png", 7)
    paint(tmp_path / "test/2.png", 9)
    assert load_data("images", str(tmp_path)).train_images.shape == (1, 1, 4, 6)
    paint(tmp_path / "test/3.png", RED)
    data = load_data("images", str(tmp_path))
    assert data.test_images is not None
    assert corners(data) == [[7, 7, 7]]
    assert data.test_images[:, :, 0, 0].tolist() == [[9, 9, 9], [200, 0, 0]]


def test_photos_take_the_size_that_models_take_unless_another_is_asked_for(tmp_path):
    paint(tmp_path / "1.png", size=(12, 8))
    paint(tmp_path / "2.png", size=(5, 9))
    shapes = [
        load_data("images", str(tmp_path), image_size=size, fallback_size=(4, 6)).train_images.shape[2:]
        for size in (None, 3, (2, 5))
    ]
    assert shapes == [(4, 6), (3, 3), (2, 5)]
    with pytest.raises(InputError, match=r"12 x 8 pixels in .*1\.png and 5 x 9 pixels in .*2\.png"):
        load_data("images", str(tmp_path))


def test_the_centre_that_covers_a_size_is_kept(tmp_path):
    picture = np.zeros((4, 12), np.uint8)
    picture[:, 3:9] = 255
    Image.fromarray(picture).save(tmp_path / "1.png")
    assert (load_data("images", str(tmp_path), image_size=(4, 6)).train_images == 255).all()


def test_a_published_set_ignores_the_size_that_models_take():
    assert load_data("digits", fallback_size=(4, 4)).train_images.shape[2:] == (16, 16)


def test_an_image_too_narrow_to_be_made_to_fit_is_refused(tmp_path):
    Image.new("1", (2, 2_000_000)).save(tmp_path / "1.png")
    with pytest.raises(InputError, match=r"sides differ less in .*1\.png, got 2 x 2000000 pixels"):
        load_data("images", str(tmp_path), image_size=224)


def picture(path: Path, **options: object) -> list[list[list[int]]]:
    """The one image of a folder, channel by channel."""
    return load_data("images", str(path.parent), **options).train_images[0].tolist()  # type: ignore[arg-type]


def test_sixteen_bits_are_rounded_to_eight(tmp_path):
    levels = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)  # 129 / 257 is the first above a half
    for name in ("1.png", "1.tif"):
        path = tmp_path / name.replace(".", "-") / name
        path.parent.mkdir()
        Image.fromarray(levels).save(path)
        assert picture(path) == [[[0, 0, 1, 1, 128, 255]]]
    write(tmp_path / "pgm/1.pgm", "P2 3 1 65535 0 257 65535")
    assert picture(tmp_path / "pgm/1.pgm") == [[[0, 1, 255]]]


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_more_than_sixteen_bits_are_refused(tmp_path, kind):
    Image.fromarray(np.ones((3, 3), kind)).save(tmp_path / "1.tif")
    with pytest.raises(InputError, match=r"at most 16 bits a channel in .*1\.tif, got 32"):
        load_data("images", str(tmp_path))


def test_the_camera_says_which_side_is_up(tmp_path):
    pixels = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)
    tag = Image.Exif()
    tag[0x0112] = 6  # to be turned clockwise by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "1.png", exif=tag)
    assert picture(tmp_path / "1.png") == [[[40, 10], [50, 20], [60, 30]]]


def test_a_damaged_camera_record_does_not_spoil_the_picture(tmp_path):
    Image.new("L", (2, 2), 7).save(tmp_path / "1.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12\0\x03")
    assert picture(tmp_path / "1.jpg") == [[[7, 7], [7, 7]]]


def test_transparency_is_dropped_from_palettes_and_pixels(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    (tmp_path / "palette").mkdir()
    palette.save(tmp_path / "palette/1.png", transparency=bytes((0, 128)))
    assert picture(tmp_path / "palette/1.png") == [[[10, 40]], [[20, 50]], [[30, 60]]]
    for mode, colour, channels in (("RGBA", (1, 2, 3, 0), [1, 2, 3]), ("LA", (9, 0), [9])):
        path = tmp_path / mode / "1.png"
        path.parent.mkdir()
        Image.new(mode, (1, 1), colour).save(path)
        assert picture(path) == [[[value]] for value in channels]


def test_printing_colours_become_those_of_a_screen(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "1.jpg", quality=95)
    red, green, blue = (channel[0][0] for channel in picture(tmp_path / "1.jpg"))
    assert (red > 240, green < 15, blue < 15) == (True, True, True)


def test_of_an_animation_the_first_picture_is_taken(tmp_path):
    pictures = [Image.new("RGB", (3, 2), colour) for colour in (RED, GREEN, BLUE)]
    pictures[0].save(tmp_path / "1.gif", save_all=True, append_images=pictures[1:])
    assert [channel[0][0] for channel in picture(tmp_path / "1.gif")] == list(RED)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.filterwarnings("ignore")  # so that Pillow's mere warning is not an error already
def test_a_picture_of_more_pixels_than_is_safe_is_refused_before_it_is_unpacked(tmp_path):
    for side in (10_000, 60_000):  # Pillow only warns of the first
        head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
        (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
        with pytest.raises(InputError, match=r"at most 89478485 pixels at .*bomb\.png"):
            load_data("images", str(tmp_path))


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\x89PNG\r\n"]
)
def test_a_file_that_only_says_it_is_an_image_is_named(tmp_path, content):
    paint(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(content)
    with pytest.raises(InputError, match=r"expected an image file at .*2\.png"):
        load_data("images", str(tmp_path))


def test_a_format_beyond_those_of_the_known_endings_is_refused(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "1.png", format="PCX")
    with pytest.raises(InputError, match=r"expected an image file at .*1\.png"):
        load_data("images", str(tmp_path))


def test_any_cut_of_any_format_is_one_sentence(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    for ending in images.ENDINGS:
        whole = tmp_path / f"whole{ending}"
        Image.fromarray(noise[..., 0] if ending == ".pgm" else noise).save(whole)
        for share in (0.02, 0.3, 0.6):
            path = tmp_path / "cut" / f"1{ending}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
            with pytest.raises(InputError, match=f"expected an image file at .*1{ending}"):
                images.read_images([path])


def test_more_images_than_fit_in_memory_are_refused(tmp_path, monkeypatch):
    for number in range(3):
        paint(tmp_path / f"{number}.png", number)
    monkeypatch.setattr("experiments.memory.available", lambda: 2 * 3 * 24)
    assert len(load_data("images", str(tmp_path)).train_images) == 3
    monkeypatch.setattr("experiments.memory.available", lambda: 2 * 3 * 24 - 1)
    with pytest.raises(InputError, match="fit in memory, but 3 images of 6 x 4 pixels would take"):
        load_data("images", str(tmp_path))


def test_listed_images_are_read_with_their_labels(tmp_path):
    paint(tmp_path / "a/1.png", 1)
    paint(tmp_path / "2.png", 2)
    paint(tmp_path / "unlisted.png", 3)
    write(tmp_path / "metadata.csv", '\ufefffile_name,label,note\n2.png,dog,"one, two"\na/1.png,cat,\n\n')
    data = load_data("metadata", str(tmp_path))
    assert data.train_labels is not None
    assert corners(data) == [[2], [1]]
    assert data.class_names == ("cat", "dog")
    assert data.train_labels.tolist() == [1, 0]
    assert data.test_images is None


def test_numbers_as_labels_are_themselves(tmp_path):
    for number in range(3):
        paint(tmp_path / f"{number}.png", number)
    write(tmp_path / "metadata.csv", "label,file_name\n2,0.png\n10,1.png\n0,2.png\n")
    data = load_data("metadata", str(tmp_path))
    assert data.train_labels is not None
    assert data.train_labels.tolist() == [2, 10, 0]
    assert data.class_names == tuple(map(str, range(11)))


def test_images_listed_without_labels_have_none(tmp_path):
    paint(tmp_path / "1.png")
    write(tmp_path / "metadata.csv", "file_name,caption\n1.png,red\n")
    data = load_data("metadata", str(tmp_path))
    assert data.train_labels is None
    assert data.class_names == ()


def test_every_split_may_have_its_list(tmp_path):
    for split, label in (("train", "dog"), ("test", "cat"), ("validation", "cow")):
        paint(tmp_path / split / "1.png", len(split))
        write(tmp_path / split / "metadata.csv", f"file_name,label\n1.png,{label}\n")
    data = load_data("metadata", str(tmp_path))
    assert data.class_names == ("cat", "dog")
    assert labels_of(data) == ([1], [0])
    assert corners(data) == [[5]]


def test_one_list_may_name_the_splits(tmp_path):
    for name in ("train/1.png", "train/2.png", "validation/1.png"):
        paint(tmp_path / name)
    write(tmp_path / "metadata.csv", "file_name,label\ntrain/1.png,0\nvalidation/1.png,1\ntrain/2.png,2\n")
    assert labels_of(load_data("metadata", str(tmp_path))) == ([0, 2], [1])
    paint(tmp_path / "other/1.png")
    write(tmp_path / "metadata.csv", "file_name,label\ntrain/1.png,0\nvalidation/1.png,1\nother/1.png,2\n")
    assert load_data("metadata", str(tmp_path)).test_images is None


BAD_LISTS = {
    "a way out": ("file_name\n../secret.png\n", r"relative to the folder .* line 2, got '\.\./secret\.png'"),
    "a way out and back": ("file_name\n../photos/1.png\n", "relative to the folder"),
    "a path from the root": ("file_name\n/etc/passwd\n", "relative to the folder .* got '/etc/passwd'"),
    "a link out": ("file_name\nlink.png\n", "must not lead out of its folder .* line 2, got 'link.png'"),
    "a link to a folder out": ("file_name\nfar/secret.png\n", "must not lead out of its folder"),
    "a link to itself": ("file_name\ncircle.png\n", "expected an image at .*circle.png"),
    "an address": ("file_name\nhttps://example.org/1.png\n", "expected an image at .*, named in .* found none"),
    "a missing file": ("file_name\n1.png\n2.png\n", r"expected an image at .*2\.png, named in .*line 3, found none"),
    "a folder": ("file_name\nsub\n", "expected an image at .*sub"),
    "a zero": ("file_name\n1.png\0\n", "metadata.csv"),
    "a name too long": (f"file_name\n{'a' * 300}.png\n", "metadata.csv"),
    "a missing column": ("name,label\n1.png,0\n", "one column file_name.* got name, label"),
    "a column twice": ("file_name,label,label\n1.png,0,1\n", "at most one column label"),
    "nothing": ("", "one column file_name.* got none"),
    "no images": ("file_name,label\n", "expected images in .*metadata.csv, it lists none"),
    "an image twice": ("file_name,label\n1.png,0\n./1.png,1\n", "each image once in .*line 3, .*stands in line 2"),
    "a short line": ("file_name,label\n1.png\n", "expected 2 values in .*line 2, got 1"),
    "a long line": ("file_name,label\n1.png,0,1\n", "expected 2 values in .*line 2, got 3"),
    "an empty name": ("file_name,label\n,0\n", "got ''"),
    "an empty label": ("file_name,label\n1.png, \n", "expected a label in .*line 2"),
    "a negative label": ("file_name,label\n1.png,-1\n", "counted from 0.* got -1"),
    "a giant label": ("file_name,label\n1.png,1000000000000\n", "counted from 0, up to 99999, got 1000000000000"),
    "an open quote": ('file_name,label\n"1.png,0\n', "expected a table in UTF-8"),
    "a text file": ("file_name,label\nnote.txt,0\n", "expected an image file at .*note.txt"),
}


@pytest.mark.parametrize("name", BAD_LISTS)
def test_a_bad_list_is_one_sentence(tmp_path, name):
    text, complaint = BAD_LISTS[name]
    paint(tmp_path / "secret.png")
    root = tmp_path / "photos"
    paint(root / "1.png")
    (root / "sub").mkdir()
    write(root / "note.txt", "hello")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "circle.png").symlink_to(root / "circle.png")
    (root / "far").symlink_to(tmp_path, target_is_directory=True)
    write(root / "metadata.csv", text)
    with pytest.raises(InputError, match=complaint) as error:
        load_data("metadata", str(root))
    assert "\n" not in str(error.value)


def test_a_list_in_another_encoding_or_none_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected metadata\.csv in .* found none"):
        load_data("metadata", str(tmp_path))
    (tmp_path / "metadata.csv").write_bytes(b"file_name\nh\xfcndchen.png\n")
    with pytest.raises(InputError, match="expected a table in UTF-8"):
        load_data("metadata", str(tmp_path))


def test_a_link_within_the_folder_is_fine(tmp_path):
    paint(tmp_path / "real/1.png", 4)
    (tmp_path / "1.png").symlink_to(tmp_path / "real/1.png")
    write(tmp_path / "metadata.csv", "file_name\n1.png\n")
    assert corners(load_data("metadata", str(tmp_path))) == [[4]]


KINDS: dict[str, tuple[str, ...]] = {
    "imagefolder": ("cat/1.png", "dog/1.png", "notes.txt"),
    "images": ("1.png", "2.jpg", "empty/notes.txt"),
    "metadata": ("metadata.csv", "1.png"),
    "arrays": ("images.npy", "labels.npy"),
    "mnist": ("MNIST/raw/train-images-idx3-ubyte.gz", "notes.txt"),
    "cifar10": ("cifar10/cifar10_labels.npz", "cifar10/cifar10_test_00.webp"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_a_folder_is_found_by_looking(tmp_path, kind):
    for name in KINDS[kind]:
        write(tmp_path / name, "")
    assert kind_of(tmp_path) == kind


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("train/cat/1.png", "test/cat/1.png"), "imagefolder"),
        (("train/1.png", "val/1.png"), "images"),
        (("train/metadata.csv", "train/1.png", "test/metadata.csv"), "metadata"),
        (("data.npz",), "arrays"),
    ],
)
def test_the_kind_of_splits_is_found_by_looking(tmp_path, names, kind):
    for name in names:
        write(tmp_path / name, "")
    assert kind_of(tmp_path) == kind


def test_the_kind_of_a_file_is_told_by_its_ending(tmp_path):
    for name in ("a.npz", "a.npy", "a.zip"):
        write(tmp_path / name, "")
    assert kind_of(tmp_path / "a.npz") == kind_of(tmp_path / "a.npy") == "arrays"
    with pytest.raises(InputError, match="got another file"):
        kind_of(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ((), "expected image files .* found none"),
        (("notes.txt", ".hidden.png"), "expected image files .* found none"),
        (("1.png", "cat/1.png"), "can be read as imagefolder and as images; say which in data.name"),
        (("1.png", "features.npy"), "as images and as arrays"),
        (("MNIST/raw/x", "FashionMNIST/raw/x"), "as mnist and as fashion_mnist"),
    ],
)
def test_a_kind_that_is_not_sure_is_asked_for(tmp_path, names, complaint):
    for name in names:
        write(tmp_path / name, "")
    with pytest.raises(InputError, match=complaint):
        kind_of(tmp_path)


def test_data_without_a_name_are_read_as_what_lies_there(tmp_path):
    paint(tmp_path / "cat/1.png", 3)
    data = load_data(None, str(tmp_path))
    assert data.name == "imagefolder"
    assert torch.equal(data.train_images, load_data("imagefolder", str(tmp_path)).train_images)
    with pytest.raises(InputError, match=r"data\.name=null needs data\.root"):
        load_data()
    with pytest.raises(InputError, match="nowhere"):
        load_data(None, str(tmp_path / "nowhere"))
