import hashlib

import pytest
import torch

from dflare.errors import InputError
from dflare.seeds import Seeds, pixel_hash


def images(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 1, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_the_id_of_a_black_pixel_is_known():
    # the last number was computed with coreutils: b2sum of the 25 bytes, first 8 bytes little-endian
    shape_and_pixel = (1).to_bytes(8, "little") * 3 + b"\0"
    expected = int.from_bytes(hashlib.blake2b(shape_and_pixel).digest()[:8], "little") % 2**63
    assert pixel_hash(torch.zeros(1, 1, 1, 1, dtype=torch.uint8)).tolist() == [expected] == [8518239306732959241]


def test_ids_follow_the_pixels_and_not_the_place():
    batch = images(20)
    assert torch.equal(pixel_hash(batch.flip(0)), pixel_hash(batch).flip(0))
    assert torch.equal(pixel_hash(batch), torch.cat([pixel_hash(image[None]) for image in batch]))


def test_ids_do_not_depend_on_the_memory_layout():
    batch = images(5)
    assert torch.equal(pixel_hash(batch.to(memory_format=torch.channels_last)), pixel_hash(batch))
    assert torch.equal(pixel_hash(batch.transpose(2, 3)), pixel_hash(batch.transpose(2, 3).contiguous()))


def test_the_same_pixels_in_another_shape_are_another_image():
    batch = images(5)
    assert not (pixel_hash(batch) == pixel_hash(batch.view(5, 1, 6, 4))).any()


def test_ids_are_distinct_not_negative_and_half_of_them_odd():
    ids = pixel_hash(images(4000))
    assert len(ids.unique()) == 4000
    assert ids.min() >= 0
    assert abs(int((ids % 2).sum()) - 2000) < 5 * 32  # five standard deviations of a fair coin
    assert abs(int((ids >= 2**62).sum()) - 2000) < 5 * 32


def test_no_images_have_no_ids():
    assert pixel_hash(images(0)).shape == (0,)


@pytest.mark.parametrize("world", [1, 2, 4, 9])
def test_shares_hold_every_seed_once_and_are_of_one_size_but_for_one(world):
    batch = images(7)
    seeds = Seeds(batch, pixel_hash(batch), torch.arange(7))
    shares = [seeds.share(rank, world) for rank in range(world)]
    assert sorted(torch.cat([share.labels for share in shares]).tolist()) == list(range(7))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert all(torch.equal(share.ids, pixel_hash(share.images)) for share in shares)


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_rank_outside_of_the_world_is_refused(rank):
    batch = images(2)
    with pytest.raises(InputError, match=f"got rank {rank} of 2"):
        Seeds(batch, pixel_hash(batch)).share(rank, 2)


def test_floats_are_refused():
    with pytest.raises(InputError, match="uint8"):
        pixel_hash(torch.zeros(1, 1, 4, 4))


def test_seeds_are_taken_by_mask_and_slice_with_everything_that_belongs_to_them():
    batch = images(6)
    seeds = Seeds(batch, pixel_hash(batch), torch.arange(6))
    taken = seeds.take(torch.tensor([False, True, False, False, False, True]))
    assert len(seeds) == 6
    assert taken.labels is not None
    assert taken.labels.tolist() == [1, 5]
    assert torch.equal(taken.ids, pixel_hash(taken.images))
    assert len(Seeds(batch, pixel_hash(batch)).take(slice(0, 2))) == 2
