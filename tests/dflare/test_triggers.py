"""Sets of triggers: what is kept, how far they are, and files that are something else."""

import gc
import pickle
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dflare import ragged
from dflare.chain import replay
from dflare.classifiers import ModelPair
from dflare.errors import InputError
from dflare.search import Ending, Search
from dflare.strategies import make_kernel
from dflare.triggers import Side, TriggerSet, concatenate, read_arrays

KERNEL = make_kernel("random")


@pytest.fixture(scope="module")
def found(toy_pair, noise_seeds) -> TriggerSet:
    endings = Search(KERNEL, toy_pair(), toy_pair(), 0, 40, 16).run([noise_seeds(40, high=250)])
    return concatenate([TriggerSet.of(ended, Side.judge) for ended in endings if ended.ending is Ending.deviated])


def by_hand(images: Tensor, seed_images: Tensor) -> TriggerSet:
    n = len(images)
    scores, path = torch.zeros(n, 2), ragged.empty(n, 3, dtype=torch.int32)
    sides = torch.arange(n, dtype=torch.uint8) % 3
    counts = torch.arange(n)
    return TriggerSet(counts, sides, seed_images, images, scores, scores, counts, torch.zeros_like(counts), path)


def contents(triggers: TriggerSet) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in triggers.arrays().items()}


def test_a_set_holds_what_the_chains_ended_with(toy_pair, noise_seeds):
    seeds = noise_seeds(20, high=250)
    for ended in Search(KERNEL, toy_pair(), toy_pair(), 0, 20, 16).run([seeds]):
        if ended.ending is Ending.deviated:
            found, chains = TriggerSet.of(ended, Side.train), ended.chains
            rows = torch.stack([(seeds.ids == seed).nonzero()[0, 0] for seed in found.seeds])
            assert torch.equal(found.seed_images, seeds.images[rows])
            assert torch.equal(found.images, chains.images)
            assert torch.equal(found.queries, chains.queries)
            assert found.outputs.deviates.all()
            assert found.sides.tolist() == [0] * len(chains)


def test_saving_and_loading_gives_the_same_set_back(found, tmp_path):
    assert len(found) > 5
    found.save(tmp_path / "set.npz")
    loaded = TriggerSet.load(tmp_path / "set.npz")
    assert contents(loaded) == contents(found)
    for ours, theirs in zip(loaded.path.lists(), found.path.lists(), strict=True):
        assert torch.equal(ours, theirs)


def test_an_empty_set_is_saved_and_loaded_too(found, tmp_path):
    none = found.take(torch.zeros(len(found), dtype=torch.bool))
    none.save(tmp_path / "set.npz")
    loaded = TriggerSet.load(tmp_path / "set.npz")
    assert len(loaded) == 0
    assert loaded.images.shape == (0, 1, 8, 8)
    assert loaded.path.lists() == []


def test_sets_are_put_together_in_order(found):
    first, rest = found.take(torch.arange(len(found)) < 3), found.take(torch.arange(len(found)) >= 3)
    assert contents(concatenate([first, rest])) == contents(found)


def test_triggers_are_split_by_side():
    images = torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1)
    triggers = by_hand(images, images)
    assert [triggers.side(side).seeds.tolist() for side in Side] == [[0, 3, 6], [1, 4], [2, 5]]


def test_distances_are_known_by_hand():
    seed_images = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    images = torch.tensor([[[[51, 0], [0, 0]]], [[[153, 204], [0, 0]]]], dtype=torch.uint8)
    distances = by_hand(images, seed_images).distances
    torch.testing.assert_close(distances["l_inf"], torch.tensor([0.2, 0.8]).double())
    torch.testing.assert_close(distances["l_2"], torch.tensor([0.2, 1.0]).double())
    assert (distances["ssim"] < 1).all()
    swapped = by_hand(seed_images, images).distances  # darker is as far as brighter: no wrap-around of uint8
    assert all(torch.equal(swapped[name], distances[name]) for name in distances)


def test_verifying_asks_a_pair_for_one_image_at_a_time(found, toy_pair):
    pair = toy_pair()
    assert found.verify(pair).tolist() == [True] * len(found)
    assert pair.original.sizes == [1] * len(found)
    same = ModelPair(pair.original, pair.original)
    assert found.verify(same).tolist() == [False] * len(found)
    assert found.take(torch.zeros(len(found), dtype=torch.bool)).verify(pair).shape == (0,)


def test_replay_makes_loaded_triggers_again_from_their_seeds(found, tmp_path):
    found.save(tmp_path / "set.npz")
    loaded = TriggerSet.load(tmp_path / "set.npz")
    again = replay(KERNEL, 0, loaded.seeds, loaded.seed_images, loaded.path.lists())
    assert torch.equal(again, loaded.images)
    assert not torch.equal(replay(KERNEL, 1, loaded.seeds, loaded.seed_images, loaded.path.lists()), loaded.images)


def damaged(path: Path, kind: str, found: TriggerSet) -> Path:
    found.save(path)
    whole = path.read_bytes()
    if kind == "cut off":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "turned bytes":
        path.write_bytes(whole[:300] + bytes(255 - byte for byte in whole[300:500]) + whole[500:])
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"trigger_seeds": 1}))
    elif kind == "pickled array":
        np.savez(path, trigger_seeds=np.array([{}], dtype=object))
    elif kind == "one array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif kind == "other arrays":
        np.savez(path, a=np.zeros(3))
    elif kind == "lacks one":
        arrays = found.arrays()
        del arrays["trigger_path_lengths"]
        np.savez(path, **arrays)
    else:
        path.unlink()
    return path


KINDS = [
    "cut off",
    "empty",
    "turned bytes",
    "pickle",
    "pickled array",
    "one array",
    "other arrays",
    "lacks one",
    "gone",
]


@pytest.mark.parametrize("kind", KINDS)
def test_other_files_are_refused_by_name_and_none_is_left_open(found, tmp_path, kind):
    path = damaged(tmp_path / "set.npz", kind, found)
    with warnings.catch_warnings(record=True) as leaks:
        warnings.simplefilter("always", ResourceWarning)
        with pytest.raises(InputError, match=r"expected .*set\.npz") as caught:
            TriggerSet.load(path)
        assert "\n" not in str(caught.value)
        del caught
        gc.collect()
    assert leaks == []


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("bare", [True, False])
def test_no_code_in_a_pickle_is_ever_run(tmp_path, bare):
    trap = Trap(tmp_path / "executed")
    if bare:
        (tmp_path / "set.npz").write_bytes(pickle.dumps(trap))
    else:
        np.savez(tmp_path / "set.npz", trigger_seeds=np.array([trap], dtype=object))
    with pytest.raises(InputError, match="without pickles"):
        read_arrays(tmp_path / "set.npz")
    assert not trap.path.exists()


def test_arrays_that_are_missing_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", first=np.zeros(1))
    assert list(read_arrays(tmp_path / "a.npz", "first")) == ["first"]
    with pytest.raises(InputError, match=r"expected the arrays first, second in .*a\.npz, but it lacks second"):
        read_arrays(tmp_path / "a.npz", "first", "second")


def test_a_saved_set_holds_no_pickle(found, tmp_path):
    found.save(tmp_path / "set.npz")
    with np.load(tmp_path / "set.npz", allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


def test_shrunk_triggers_take_the_place_of_their_own_and_of_no_other(found):
    nearer = replace(found, images=found.seed_images, shrink_queries=found.queries + 7).take(torch.tensor([4, 1]))
    elsewhere = replace(nearer, sides=nearer.sides * 0)  # the same seeds on another side
    merged = found.replaced(nearer)
    assert merged.identities() == found.identities()
    for row in range(len(found)):
        expected = found.seed_images if row in (1, 4) else found.images
        assert torch.equal(merged.images[row], expected[row])
        assert bool(merged.shrink_queries[row]) == (row in (1, 4))
    assert contents(found.replaced(elsewhere)) == contents(found)
