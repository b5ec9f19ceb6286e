"""The probe set depends on its seeds alone and has paths of every length in equal shares."""

import pytest
import torch

from dflare.seeds import pixel_hash
from repair.proof.probe import LENGTHS, ProbeSet


def probe(n: int = 7, count: int = 100) -> ProbeSet:
    images = torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ProbeSet(images, pixel_hash(images), count)


def test_the_images_are_the_same_whatever_the_size_of_the_chunks():
    whole = torch.cat(list(probe().chunks(100)))
    assert torch.equal(whole, torch.cat(list(probe().chunks(7))))
    assert whole.shape == (100, 1, 8, 8)


def test_a_large_set_made_chunk_by_chunk_is_the_same_set(monkeypatch):
    kept = torch.cat(list(probe().chunks(30)))
    monkeypatch.setattr("repair.proof.probe.KEPT_BYTES", 0)
    assert torch.equal(kept, torch.cat(list(probe().chunks(30))))


@pytest.mark.parametrize("n", [1, 4, 5, 7, 25, 50])
def test_path_lengths_have_equal_shares_for_every_seed(n):
    lengths, rows = probe(n, count=n * 10).lengths(), torch.arange(n * 10) % n
    for seed in range(n):
        counts = torch.stack([(lengths[rows == seed] == length).sum() for length in LENGTHS])
        assert counts.tolist() == [2] * len(LENGTHS)


def test_longer_paths_lead_further_from_the_seed():
    made = probe(count=700)
    images = torch.cat(list(made.chunks()))
    seeds = made.seeds[torch.arange(700) % 7]
    apart = (images.float() - seeds.float()).flatten(1).norm(dim=1)
    means = [apart[made.lengths() == length].mean().item() for length in LENGTHS]
    assert means == sorted(means)
    assert means[0] > 0


def test_images_of_one_seed_differ_from_turn_to_turn():
    images = torch.cat(list(probe(n=1, count=50).chunks()))
    assert len(torch.unique(images.flatten(1), dim=0)) > 30
