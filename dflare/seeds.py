"""Seed images and the number by which each is known wherever it turns up."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dflare.classifiers import check_images
from dflare.errors import InputError


@dataclass(frozen=True)
class Seeds:
    """Real images to start from, with leading dimension n in every field."""

    images: Tensor  # (n, c, h, w) uint8
    ids: Tensor  # (n,) int64 in [0, 2**63), `pixel_hash` of the images
    labels: Tensor | None = None  # (n,) int64, where the data set has any

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Tensor | slice) -> "Seeds":
        """Some of the seeds, selected by mask, index or slice."""
        return Seeds(self.images[rows], self.ids[rows], None if self.labels is None else self.labels[rows])

    def share(self, rank: int, world: int) -> "Seeds":
        """Every `world`-th seed, from place `rank` on: the shares of ranks 0 to world - 1 hold each seed once.

        Raises `InputError` for a rank that is not in [0, world).
        """
        if not 0 <= rank < world:
            raise InputError(f"rank must be in [0, world), got rank {rank} of {world}")
        return self.take(slice(rank, None, world))


def pixel_hash(images: Tensor) -> Tensor:
    """The ids of uint8 images (n, c, h, w): (n,) int64 in [0, 2**63), equal for equal pixels, the same everywhere.

    The first 8 bytes, little-endian, of the BLAKE2b digest (RFC 7693) of shape and pixels, without the sign bit.
    Two of a million different images meet with probability 5e-8. Raises `InputError` for other images.
    """
    check_images(images)
    rows = images.detach().cpu().contiguous().numpy()
    shape = np.array(rows.shape[1:], "<i8").tobytes()
    digests = b"".join(hashlib.blake2b(shape + row.tobytes()).digest()[:8] for row in rows)
    ids = np.frombuffer(digests, "<u8") & np.uint64(2**63 - 1)
    return torch.from_numpy(ids.astype(np.int64))


def distinct(images: Tensor, labels: Tensor | None = None) -> Seeds:
    """The images (n, c, h, w) without repetitions, the first of equal ones with its label, in the order of their ids.

    Raises `InputError` for other images than `pixel_hash` takes.
    """
    ids, first = np.unique(pixel_hash(images).numpy(), return_index=True)
    rows = torch.from_numpy(first)
    return Seeds(images[rows], torch.from_numpy(ids), None if labels is None else labels[rows])
