"""Pictures of triggers: seed image, trigger and difference side by side, as PNG files."""

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from dflare.errors import InputError
from experiments.files import write_atomic

SMALLEST = 112
"""Pixels of a picture's shorter side; smaller images are enlarged to at least that by a whole factor."""

GAP = 4
"""White pixels between the three images."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Deviation:
    """One trigger of a run folder and what both models said of it."""

    seed: int  # the seed image's id
    seed_image: Pixels  # (c, h, w)
    image: Pixels  # (c, h, w)
    labels: tuple[int, int]  # of the original, of the compressed
    confidences: tuple[float, float]  # top-1 probability of the original, of the compressed
    clearness: float  # smaller of the two models' top-1 minus top-2 probability, in [0, 1]
    queries: int
    mutations: int | None  # accepted on the way from the seed; None where no path was kept

    @property
    def largest_change(self) -> int:
        """Largest change of a pixel, in 0..255."""
        return int(np.abs(self.image.astype(int) - self.seed_image).max())


@dataclass(frozen=True)
class Picture:
    """A PNG file and the deviation it shows."""

    file: str  # relative to the run folder, with forward slashes
    deviation: Deviation
    amplification: float  # factor that the difference is shown with


def clearest(folder: Path, count: int) -> list[Deviation]:
    """The clearest deviations among the triggers in `folder`/*.npz, at most `count`, the clearest first.

    Clear means that both models are sure of different answers: the smaller of their two margins (top-1 minus top-2
    probability) is large. A sum would also rank triggers on which one model merely wavers. One trigger a seed; ties
    in order of file and row. Raises `InputError` for a damaged file.
    """
    ranked = []
    for path in sorted(folder.glob("*.npz")):
        for row, (clearness, seed) in enumerate(_rank(path)):
            ranked.append((-clearness, path, row, seed))
    chosen: dict[int, tuple[Path, int]] = {}
    for _, path, row, seed in sorted(ranked, key=lambda entry: entry[0]):
        if len(chosen) < count:
            chosen.setdefault(seed, (path, row))
    return [_read(path, row) for path, row in chosen.values()]


def write_pictures(run_dir: Path, count: int = 6) -> list[Picture]:
    """Draw the clearest deviations of the first and of the last round into `run_dir`/pictures; at most `count` each.

    Files are named `round-00-1.png`; drawing again gives the same bytes.
    """
    folders = sorted(path.parent for path in run_dir.glob("round-*/triggers"))
    pictures = []
    for folder in folders[:1] + folders[1:][-1:]:
        for number, deviation in enumerate(clearest(folder / "triggers", count), start=1):
            pixels, amplification = triple(deviation.seed_image, deviation.image)
            file = f"pictures/{folder.name}-{number}.png"
            write_atomic(run_dir / file, png(pixels))
            pictures.append(Picture(file, deviation, amplification))
    return pictures


def triple(seed: Pixels, trigger: Pixels) -> tuple[Pixels, float]:
    """Seed, trigger and amplified |difference| (c, h, w) side by side, (h', 3 w' + 2 * GAP, 3) uint8, and the factor.

    Images are enlarged by a whole factor (nearest neighbour) until the shorter side has `SMALLEST` pixels;
    the largest difference is shown as white.
    """
    difference = np.abs(trigger.astype(float) - seed)
    amplification = 255 / difference.max() if difference.any() else 1.0
    factor = math.ceil(SMALLEST / min(seed.shape[1:]))
    images = [_colour(image, factor) for image in (seed, trigger, np.rint(difference * amplification).astype(np.uint8))]
    gap = np.full((images[0].shape[0], GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([images[0], gap, images[1], gap, images[2]], axis=1), amplification


def png(pixels: Pixels) -> bytes:
    """The image (h, w, 3) uint8 as a PNG file: 8-bit RGB, no filter (ISO/IEC 15948)."""
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # each row begins with its filter, 0 = none
    rows[:, 1:] = pixels.reshape(height, 3 * width)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def _colour(image: Pixels, factor: int) -> Pixels:
    """(c, h, w) enlarged as (factor * h, factor * w, 3): grey for 1 or 2 channels, else the first three."""
    channels = image[:3] if len(image) >= 3 else np.repeat(image[:1], 3, axis=0)
    return channels.transpose(1, 2, 0).repeat(factor, axis=0).repeat(factor, axis=1)


def _probabilities(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Softmax of raw scores (n, classes)."""
    powers = np.exp(scores.astype(np.float64) - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _rank(path: Path) -> list[tuple[float, int]]:
    """Clearness and seed of every trigger in a shard; a shard of chains that found nothing has none."""
    arrays = _arrays(path, "trigger_original", "trigger_compressed", "trigger_seeds")
    if arrays is None:
        return []
    tops = [np.sort(_probabilities(arrays[key]), axis=-1) for key in ("trigger_original", "trigger_compressed")]
    margins = np.minimum(*(top[:, -1] - top[:, -2] for top in tops))
    return list(zip(margins.tolist(), arrays["trigger_seeds"].tolist(), strict=True))


def _read(path: Path, row: int) -> Deviation:
    names = ("seeds", "seed_images", "images", "original", "compressed", "queries")
    arrays = _arrays(path, *(f"trigger_{name}" for name in names))
    lengths = _arrays(path, "trigger_path_lengths")
    assert arrays is not None  # `_rank` has read this shard
    scores = np.stack([arrays["trigger_original"][row], arrays["trigger_compressed"][row]])
    probabilities = _probabilities(scores)
    top = np.sort(probabilities, axis=-1)
    return Deviation(
        seed=int(arrays["trigger_seeds"][row]),
        seed_image=arrays["trigger_seed_images"][row],
        image=arrays["trigger_images"][row],
        labels=(int(scores[0].argmax()), int(scores[1].argmax())),
        confidences=(float(top[0, -1]), float(top[1, -1])),
        clearness=float((top[:, -1] - top[:, -2]).min()),
        queries=int(arrays["trigger_queries"][row]),
        mutations=int(lengths["trigger_path_lengths"][row]) if lengths else None,
    )


def _arrays(path: Path, *names: str) -> dict[str, Any] | None:
    """Some arrays of a shard without unpickling anything; None where it holds none of them."""
    try:
        # numpy leaves a file open that turns out to be damaged, unless it is opened for it
        with path.open("rb") as file, np.load(file, allow_pickle=False) as shard:
            return {name: shard[name] for name in names} if names[0] in shard else None
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, zlib.error, BadZipFile) as error:
        raise InputError(
            f"{path} must be a shard of triggers (.npz, no pickles), but cannot be read: {error}"
        ) from error
