"""Image files and arrays brought to one size."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dflare.errors import InputError

Pixels = np.ndarray
"""uint8 (n, c, h, w)."""


def read_images(paths: Sequence[Path], image_size: int | None) -> Pixels:
    """The image files as RGB, (n, 3, h, w); raises `InputError` for a file that is no image, and for mixed sizes."""
    first = _read_image(paths[0], image_size)
    pixels = np.empty((len(paths), *first.shape), np.uint8)
    for row, path in enumerate(paths):
        image = first if row == 0 else _read_image(path, image_size)
        if image.shape != first.shape:
            raise InputError(
                f"images must have one size unless data.image_size is set, got {show_size(first)} in {paths[0]} "
                f"and {show_size(image)} in {path}"
            )
        pixels[row] = image
    return pixels


def resize(pixels: Pixels, image_size: int) -> Pixels:
    """All images at another size; in integers (Pillow's), so that the pixels are the same on every machine."""
    if pixels.shape[2:] == (image_size, image_size):
        return pixels
    n, channels = pixels.shape[:2]
    planes = [_fit(Image.fromarray(plane), image_size) for plane in pixels.reshape(-1, *pixels.shape[2:])]
    return np.stack([np.asarray(plane) for plane in planes]).reshape(n, channels, image_size, image_size)


def show_size(pixels: Pixels) -> str:
    """Width x height in words, of one image or many."""
    return f"{pixels.shape[-1]} x {pixels.shape[-2]} pixels"


def _read_image(path: Path, image_size: int | None) -> Pixels:
    """One file as uint8 (3, h, w)."""
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow's readers raise
        raise InputError(f"expected an image file at {path}, but it cannot be read as one; take it away") from error
    if image_size is not None:
        image = _fit(image, image_size)
    return np.asarray(image).transpose(2, 0, 1)


def _fit(image: Image.Image, size: int) -> Image.Image:
    """Shorter side resized to `size` (bilinear with antialiasing), then the central square."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
