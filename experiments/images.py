"""Image files and arrays brought to one size."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from dflare.errors import InputError
from experiments.memory import check_memory
from experiments.terminal import quiet

Pixels = np.ndarray
"""uint8 (n, c, h, w)."""

Size = tuple[int, int]
"""Height and width, in pixels."""

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""Of the files that are taken for images, in either case; others in a folder are passed over."""

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # Pillow's others include some that start programs
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L")  # Pillow's modes of one channel, beside transparency
_MANY = 2000
"""Files from which on reading them shows its progress: a few seconds' work."""


def read_images(paths: Sequence[Path], size: Size | None = None) -> Pixels:
    """The image files as (n, c, h, w): one channel where all of them are grey, else RGB.

    Of an animation the first frame is taken; images are turned as their camera says (EXIF), transparency is dropped,
    16 bits become 8. With `size` the shorter side is made to fit, and the centre is kept.
    Raises `InputError` for a file that cannot be read as an image, for mixed sizes, and for more than fits in memory.
    """
    grey = all(_is_grey(path) for path in paths)
    first = _read_image(paths[0], size, grey)
    check_memory(len(paths) * first.size, f"{len(paths)} images of {show_size(first)}")
    pixels = np.empty((len(paths), *first.shape), np.uint8)
    for row, path in enumerate(tqdm(paths, "reading images", unit="image", disable=quiet() or len(paths) < _MANY)):
        image = first if row == 0 else _read_image(path, size, grey)
        if image.shape != first.shape:
            raise InputError(
                f"images must have one size unless data.image_size is set, got {show_size(first)} in {paths[0]} "
                f"and {show_size(image)} in {path}"
            )
        pixels[row] = image
    return pixels


def resize(pixels: Pixels, size: Size) -> Pixels:
    """All images at another size; in integers (Pillow's), so that the pixels are the same on every machine."""
    if pixels.shape[2:] == size:
        return pixels
    n, channels = pixels.shape[:2]
    check_memory(n * channels * size[0] * size[1], f"{n} images of {size[1]} x {size[0]} pixels")
    resized = np.empty((n, channels, *size), np.uint8)
    for row, image in enumerate(pixels):
        for channel, plane in enumerate(image):
            resized[row, channel] = np.asarray(_fit(Image.fromarray(plane), size, f"image {row}"))
    return resized


def show_size(pixels: Pixels) -> str:
    """Width x height in words, of one image or many."""
    return f"{pixels.shape[-1]} x {pixels.shape[-2]} pixels"


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """An image file of a known format, not decoded yet.

    Raises `InputError` for a file that cannot be read as one, also where that turns out only inside the block, and
    for one of more than `Image.MAX_IMAGE_PIXELS`, before it is decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)  # the pixels are there all the same
            with Image.open(path, formats=_FORMATS) as file:
                yield file
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            f"expected an image of at most {Image.MAX_IMAGE_PIXELS} pixels at {path}, but it has more; "
            "make it smaller or take it away"
        ) from error
    except Exception as error:  # what Pillow's readers raise for a broken file is nearly anything
        raise InputError(f"expected an image file at {path}, but it cannot be read as one; take it away") from error


def _is_grey(path: Path) -> bool:
    with open_image(path) as file:
        return file.mode in _GREY


def _read_image(path: Path, size: Size | None, grey: bool) -> Pixels:
    """One file as uint8 (c, h, w)."""
    with open_image(path) as file:
        image = _eight_bits(ImageOps.exif_transpose(file), file.format, path)
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # straight to RGB Pillow warns of several transparent colours
        image = image.convert("L" if grey else "RGB")
        if size is not None:
            image = _fit(image, size, str(path))
    pixels = np.asarray(image)
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def _eight_bits(image: Image.Image, kind: str | None, path: Path) -> Image.Image:
    """The image with at most 8 bits a channel: 16 are rounded, more are refused with an `InputError`."""
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):  # these two have no 32
        levels = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InputError(f"expected at most 16 bits a channel in {path}, got 32; save it with 8")
    return image


def _fit(image: Image.Image, size: Size, name: str) -> Image.Image:
    """Resized (bilinear with antialiasing) so that it just covers `size`, then the central part.

    Raises `InputError` for an image so narrow that covering it takes more than `Image.MAX_IMAGE_PIXELS`.
    """
    height, width = size
    scale = max(width / image.width, height / image.height)
    covering = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    if covering[0] * covering[1] > max(width * height, Image.MAX_IMAGE_PIXELS or 0):
        raise InputError(
            f"expected an image whose sides differ less in {name}, got {image.width} x {image.height} pixels; "
            "crop it or take it away"
        )
    if covering != image.size:
        image = image.resize(covering, Image.Resampling.BILINEAR)
    left, top = (covering[0] - width) // 2, (covering[1] - height) // 2
    return image.crop((left, top, left + width, top + height))
