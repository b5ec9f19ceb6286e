"""The probe set depends on its seeds alone and has paths of every length in equal shares."""

import pytest
import torch

from dflare.mutations import MUTATIONS
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


def test_every_published_mutation_is_drawn_alike_and_by_the_same_draws_for_everyone(monkeypatch):
    """The first choices are written down: with another seed or other draws two people would judge by other images."""
    drawn = []

    def remember(images, choice, mutations, draws):
        assert mutations == list(MUTATIONS.values())
        drawn.append(choice)
        return images

    monkeypatch.setattr("repair.proof.probe.mutate", remember)
    list(ProbeSet(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.arange(10), 700).chunks())
    counts = torch.cat(drawn).bincount(minlength=7).double()
    expected = 700 * 31 / 5 / 7  # paths of 1, 2, 4, 8 and 16
    assert ((counts - expected).square() / expected).sum() < 22.5  # chi^2 of 6 degrees of freedom, p = 0.001
    assert drawn[0][:12].tolist() == [4, 0, 1, 1, 4, 1, 6, 2, 0, 6, 5, 3]
