"""The loop on a toy pair whose deviating images are known, and what no result may depend on."""

import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dflare.classifiers import ModelPair, Outputs
from dflare.errors import InputError
from dflare.ragged import Ragged
from dflare.references import References
from dflare.search import Ended, Ending, Search, Tally, fitting_batch
from dflare.seeds import Seeds, pixel_hash
from dflare.shards import Shards, read_triggers
from dflare.strategies import STRATEGIES, make_kernel
from dflare.triggers import Side

BENCH = Path(os.environ.get("DFLARE_BENCH", Path(__file__).parents[3] / "shared"))


def fates(endings: list[Ended]) -> dict[int, tuple[Any, ...]]:
    """Everything about every chain, by seed id."""
    known: dict[int, tuple[Any, ...]] = {}
    for ended in endings:
        for row, seed in enumerate(ended.chains.seed.tolist()):
            assert seed not in known, "a seed was searched twice"
            known[seed] = (ended.ending, *contents(ended.chains, row), *contents(ended.outputs, row))
    return known


def contents(table: Any, row: int) -> list[Any]:
    """All that one row of a table holds, tables and lists in it included."""
    if isinstance(table, Tensor):
        return [table[row].numpy().tobytes()]
    if isinstance(table, Ragged):
        return [table.lists()[row].tolist()]
    parts = table if isinstance(table, Outputs) else [getattr(table, field.name) for field in fields(table)]
    return [content for part in parts for content in contents(part, row)]


def run_search(pair: Callable[[], ModelPair], seeds: Any, **options: Any) -> list[Ended]:
    options = {"seed": 0, "max_queries": 30, "batch_size": 16, "strategy": "dflare"} | options
    parts = {name: options.pop(name, None) for name in ("references", "gradients")}
    kernel = make_kernel(options.pop("strategy"), **parts)
    search = Search(kernel, pair(), pair(), **options)
    return list(search.run([seeds] if isinstance(seeds, Seeds) else seeds))


def sums(images: Tensor) -> Tensor:
    return images.long().sum((1, 2, 3))


def in_band(images: Tensor) -> Tensor:
    """Where the toy pair deviates, in closed form."""
    return (sums(images) > 8000) & (sums(images) < 8160)


def of(endings: list[Ended], ending: Ending) -> list[Ended]:
    return [ended for ended in endings if ended.ending is ending]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_triggers_lie_exactly_in_the_known_band(strategy, toy_pair, toy_gradients, noise_seeds):
    seeds = noise_seeds(60, high=250)
    references = References.ask(toy_pair(), noise_seeds(16, high=256, seed=1).images)
    parts = {"strategy": strategy, "references": references, "gradients": toy_gradients}
    endings = run_search(toy_pair, seeds, max_queries=40, batch_size=64, **parts)
    assert len(fates(endings)) == 60
    found = torch.cat([ended.chains.images for ended in of(endings, Ending.deviated)])
    assert len(found) > 10
    assert in_band(found).all()
    for ended in of(endings, Ending.exhausted):
        assert not in_band(ended.chains.images).any()


def test_a_seed_deviates_already_exactly_in_the_known_band(toy_pair):
    totals = [7999, 8000, 8001, 8159, 8160, 8161]
    images = torch.full((6, 1, 8, 8), 125, dtype=torch.uint8)
    images[:, 0, 0, 0] += (torch.tensor(totals) - 8000).clamp(max=100).to(torch.uint8)
    images[:, 0, 0, 1] += (torch.tensor(totals) - 8000 - 100).clamp(min=0).to(torch.uint8)
    assert sums(images).tolist() == totals
    ended = of(run_search(toy_pair, Seeds(images, pixel_hash(images)), max_queries=1), Ending.already)
    assert sorted(sums(torch.cat([part.chains.images for part in ended])).tolist()) == [8001, 8159]
    assert all(not part.chains.queries.any() for part in ended)


def chunks(seeds: Seeds, *sizes: int) -> Iterator[Seeds]:
    start = 0
    for size in sizes:
        yield seeds.take(slice(start, start + size))
        start += size
    assert start == len(seeds)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.slow
def test_a_result_depends_neither_on_the_batch_nor_on_the_order_nor_on_the_chunks(
    strategy, toy_pair, toy_gradients, noise_seeds
):
    seeds = noise_seeds(16, high=250)
    references = References.ask(toy_pair(), noise_seeds(16, high=256, seed=1).images)
    parts = {"strategy": strategy, "references": references, "gradients": toy_gradients}
    run = partial(run_search, toy_pair, max_queries=20, **parts)
    expected = fates(run(seeds, batch_size=16))
    assert Ending.deviated in {fate[0] for fate in expected.values()}
    shuffled = seeds.take(torch.randperm(16, generator=torch.Generator().manual_seed(1)))
    half = seeds.take(torch.arange(16) % 2 == 0)
    assert fates(run(seeds, batch_size=1)) == expected
    assert fates(run(seeds, batch_size=7)) == expected
    assert fates(run(shuffled, batch_size=256)) == expected
    assert fates(run(shuffled, batch_size=7)) == expected
    assert fates(run(chunks(seeds, 1, 0, 10, 5), batch_size=7)) == expected
    assert fates(run(half, batch_size=7)) == {i: expected[i] for i in half.ids.tolist()}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("world", [2, 4])
def test_any_number_of_workers_finds_bit_by_bit_what_one_finds(
    strategy, world, toy_pair, toy_gradients, noise_seeds, tmp_path
):
    seeds = noise_seeds(18, high=250)
    references = References.ask(toy_pair(), noise_seeds(16, high=256, seed=1).images)
    kernel = {"strategy": strategy, "references": references, "gradients": toy_gradients}
    run = partial(run_search, toy_pair, max_queries=20, batch_size=5, **kernel)
    alone, together = Shards(tmp_path / "alone"), tmp_path / "together"
    whole = run(seeds)
    for ended in whole:
        alone.add(Side.judge, ended)
    alone.flush()
    fates_of_all: dict[int, tuple[Any, ...]] = {}
    for rank in reversed(range(world)):
        shards, parts = Shards(together, rank), run(seeds.share(rank, world))
        for ended in parts:
            shards.add(Side.judge, ended)
        shards.flush()
        fates_of_all |= fates(parts)
    assert fates_of_all == fates(whole)
    found, expected = read_triggers(together), read_triggers(alone.folder)
    assert found is not None
    assert expected is not None
    arrays = found.arrays()
    assert all(np.array_equal(arrays[name], array) for name, array in expected.arrays().items())


def test_another_run_seed_is_another_search(toy_pair, noise_seeds):
    seeds = noise_seeds(8)
    one, other = (fates(run_search(toy_pair, seeds, seed=seed, max_queries=5)) for seed in (0, 1))
    assert all(one[i] != other[i] for i in one)


def test_nothing_is_drawn_from_the_global_generators(toy_pair, noise_seeds):
    before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    run_search(toy_pair, noise_seeds(4), max_queries=5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]  # noqa: NPY002


def test_no_seeds_end_at_once(toy_pair, noise_seeds):
    assert run_search(toy_pair, []) == []
    assert run_search(toy_pair, noise_seeds(0)) == []


class Same:
    """A model that always says the same."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        return torch.tensor([1.0, 0.0]).expand(len(images), 2)


@pytest.mark.parametrize("max_queries", [0, 1, 7])
def test_a_chain_that_finds_nothing_spends_its_budget_exactly(max_queries, noise_seeds):
    pair, tally = ModelPair(Same(), Same()), Tally()
    search = Search(make_kernel("dflare"), pair, pair, 0, max_queries, batch_size=4)
    endings = list(search.run([noise_seeds(10)], tally))
    queries = torch.cat([ended.chains.queries for ended in endings])
    assert {ended.ending for ended in endings} == {Ending.exhausted}
    assert queries.tolist() == [max_queries] * 10
    assert tally.queries == 10 * max_queries
    assert pair.asked == [10 * (max_queries + 1)]  # and the seeds


def test_queries_count_the_deviating_candidate_and_nothing_else(toy_pair, noise_seeds):
    tally, pair = Tally(), toy_pair()
    search = Search(make_kernel("random"), pair, toy_pair(), 0, 40, 40)
    endings = list(search.run([noise_seeds(40, high=250)], tally))
    queries = sum(int(ended.chains.queries.sum()) for ended in endings)
    assert tally.queries == queries
    assert pair.asked == [queries + 40]
    for ended in of(endings, Ending.deviated):
        last = torch.stack([path[-1] for path in ended.chains.path.lists()])
        assert torch.equal(last[:, 0].long(), ended.chains.queries)  # the trigger is the last candidate asked


def test_batches_are_full_until_the_seeds_run_out(toy_pair, noise_seeds):
    tally, pair = Tally(), toy_pair()
    search = Search(make_kernel("random"), pair, toy_pair(), 0, max_queries=12, batch_size=16)
    list(search.run([noise_seeds(120, high=250)], tally))
    sizes = pair.original.sizes
    assert sizes == pair.compressed.sizes
    assert sizes == sorted(sizes, reverse=True)
    assert tally.batches == len(sizes)
    assert tally.full == sizes.count(16)
    assert len(sizes) - tally.full <= 12 + 1  # the last chain to start takes so many
    assert tally.full > 3 * (len(sizes) - tally.full)


def test_no_more_chains_live_than_fit_in_a_batch(toy_pair, noise_seeds):
    given, gone, most = 0, 0, 0

    def source() -> Iterator[Seeds]:
        nonlocal given
        for chunk in chunks(noise_seeds(100, high=250), *[5] * 20):
            given += 5
            yield chunk

    for ended in Search(make_kernel("random"), toy_pair(), toy_pair(), 0, 10, 16).run(source()):
        most = max(most, given - gone)
        gone += len(ended.chains)
    assert gone == given == 100
    assert most <= 16 + 4  # and what is left of one chunk


def test_confirmation_asks_one_image_at_a_time_of_the_pair_kept_for_it(toy_pair, noise_seeds):
    pair, confirm = toy_pair(), toy_pair()
    endings = list(Search(make_kernel("random"), pair, confirm, 0, 20, 40).run([noise_seeds(40, high=250)]))
    found = sum(len(e.chains) for e in endings if e.ending in (Ending.deviated, Ending.already))
    assert confirm.original.sizes == confirm.compressed.sizes == [1] * found
    for ended in of(endings, Ending.deviated):
        for row in range(len(ended.chains)):
            alone = toy_pair()(ended.chains.images[row : row + 1])
            assert torch.equal(ended.outputs.original[row], alone.original[0])
            assert torch.equal(ended.outputs.compressed[row], alone.compressed[0])


def test_what_deviates_in_company_only_is_never_a_trigger():
    def company(images: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0] if len(images) == 1 else [0.0, 1.0]).expand(len(images), 2)

    images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    pair, confirm = ModelPair(Same(), company), ModelPair(Same(), company)
    (ended,) = Search(make_kernel("dflare"), pair, confirm, 0, 9, 4).run([Seeds(images, pixel_hash(images))])
    assert ended.ending is Ending.exhausted
    assert ended.chains.queries.tolist() == [9] * 4
    assert ended.chains.unconfirmed.tolist() == [10] * 4  # the seed's own deviation is one of them
    assert not ended.outputs.deviates.any()


def test_a_chain_goes_on_with_the_answer_given_alone(toy_pair, noise_seeds):
    """A pair that deviates everywhere in batches: with the toy pair to confirm, the triggers are the toy pair's."""
    seeds = noise_seeds(24, high=250)
    expected = fates(run_search(toy_pair, seeds, strategy="random"))

    def opposite(images: Tensor) -> Tensor:
        return toy_pair().original(images).flip(-1)

    pair = ModelPair(toy_pair().original, opposite)
    endings = list(Search(make_kernel("random"), pair, toy_pair(), 0, 30, 16).run([seeds]))
    got = fates(endings)
    image = 3  # place in the list
    assert {i: fate[0] for i, fate in got.items()} == {i: fate[0] for i, fate in expected.items()}
    assert {i: fate[image] for i, fate in got.items()} == {i: fate[image] for i, fate in expected.items()}
    for ended in endings:
        asked_in_vain = ended.chains.queries + (ended.ending is Ending.exhausted)
        assert torch.equal(ended.chains.unconfirmed, asked_in_vain)


def test_chains_in_flight_end_as_timed_out_and_nothing_new_is_begun(toy_pair, noise_seeds):
    steps = count()
    seeds, pair = noise_seeds(40), ModelPair(Same(), Same())
    search = Search(make_kernel("dflare"), pair, pair, 0, 100, 16, out_of_time=lambda: next(steps) == 3)
    (ended,) = search.run([seeds])
    assert ended.ending is Ending.timed_out
    assert ended.chains.seed.tolist() == seeds.ids[:16].tolist()
    assert ended.chains.queries.tolist() == [3] * 16
    assert len(ended.outputs.original) == 16


def test_what_has_ended_before_time_is_over_is_as_it_would_be_without_a_clock(toy_pair, noise_seeds):
    seeds, steps = noise_seeds(24, high=250), count()
    expected = fates(run_search(toy_pair, seeds))
    early = fates(run_search(toy_pair, seeds, out_of_time=lambda: next(steps) == 12))
    ended = {i: fate for i, fate in early.items() if fate[0] is not Ending.timed_out}
    assert 0 < len(ended) < len(early)
    assert all(expected[i] == fate for i, fate in ended.items())


def test_images_that_a_model_refuses_end_the_search_with_its_sentence(noise_seeds):
    def picky(images: Tensor) -> Tensor:
        raise InputError("takes images of 3 x 32 x 32")

    pair = ModelPair(picky, picky)
    with pytest.raises(InputError, match="3 x 32 x 32"):
        list(Search(make_kernel("dflare"), pair, pair, 0).run([noise_seeds(2)]))


@pytest.mark.parametrize("ending", Ending)
def test_every_ending_carries_a_sentence(ending):
    assert len(ending.value.split()) > 5


def mnist(n: int) -> Seeds:
    import gzip

    path = next((BENCH / "data" / "MNIST").rglob("t10k-images*"), None)
    if path is None or not (BENCH / "models" / "mnist_lenet-5").is_dir():
        pytest.skip(f"MNIST and its LeNet-5 are not in {BENCH} (environment variable DFLARE_BENCH)")
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    images = torch.from_numpy(np.frombuffer(raw, np.uint8, n * 784, offset=16).copy()).view(n, 1, 28, 28)
    return Seeds(images, pixel_hash(images))


@pytest.mark.slow
def test_a_search_of_a_real_pair_depends_neither_on_the_batch_nor_on_the_order():
    pytest.importorskip("onnxruntime")
    from dflare.models.onnx_runtime import open_onnx

    seeds, folder = mnist(40), BENCH / "models" / "mnist_lenet-5"

    def pair() -> ModelPair:
        return ModelPair(open_onnx(folder / "original.onnx", 1), open_onnx(folder / "distilled.onnx", 1))

    expected = fates(run_search(pair, seeds, max_queries=100, strategy="random"))
    assert sum(fate[0] is Ending.deviated for fate in expected.values()) > 30
    others = fates(
        run_search(pair, seeds.take(torch.arange(39, -1, -1)), max_queries=100, strategy="random", batch_size=64)
    )
    endings = [(fate[0], fate[1], fate[7]) for fate in expected.values()]  # the models may round scores otherwise
    assert [(others[i][0], others[i][1], others[i][7]) for i in expected] == endings


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1, 8, 8), 1024), ((1, 28, 28), 1024), ((3, 32, 32), 256), ((3, 64, 64), 64), ((3, 224, 224), 64)],
)
def test_small_images_are_asked_in_large_batches(shape, expected):
    assert fitting_batch(torch.zeros(1, *shape)) == fitting_batch(torch.zeros(0, *shape)) == expected
