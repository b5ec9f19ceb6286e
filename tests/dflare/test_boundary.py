"""The boundary search on pairs whose strips are known in closed form; aiming badly must cost more."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from dflare import bracket, ways
from dflare.boundary import Boundary
from dflare.chain import ChainState, replay
from dflare.classifiers import ModelPair, Outputs
from dflare.crossing import WHOLE
from dflare.mutations import MUTATIONS
from dflare.ragged import Ragged
from dflare.references import References
from dflare.search import Ended, Ending, Search, Tally
from dflare.seeds import Seeds, pixel_hash

M = len(MUTATIONS)
NOISE = M
"""The choice that stands for noise in paths."""


class Linear:
    """Three linear scores with whole weights over a power of two, so exact in any batch; rounded down to `step`."""

    def __init__(self, weights: Tensor, step: float = 0) -> None:
        self.weights, self.step = weights, step

    def __call__(self, images: Tensor) -> Tensor:
        scores = ((images * 255).round() - 128).flatten(1) @ self.weights / 64
        return (scores / self.step).floor() * self.step if self.step else scores


def linear_pair(finest: int = 16, grid: int = 2, step: float = 0) -> Callable[[], ModelPair]:
    """Weights up to `finest`, and the same rounded to `grid`: the strip is the thinner the smaller grid / finest."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-finest, finest + 1, (64, 3), generator=generator).float()
    return lambda: ModelPair(Linear(weights), Linear((weights / grid).round() * grid, step))


def deviating(pair: ModelPair, images: Tensor) -> Tensor:
    """Whether the sets of top classes are disjoint, in Python's whole numbers, (n,) bool."""
    tops = []
    for model in (pair.original, pair.compressed):
        weights = model.weights.long().T.tolist()
        step = int(64 * model.step) or 1
        rows = (images.long() - 128).flatten(1).tolist()
        scores = [[sum(a * b for a, b in zip(row, of, strict=True)) // step for of in weights] for row in rows]
        tops.append([{k for k, score in enumerate(these) if score == max(these)} for these in scores])
    return torch.tensor([not (one & other) for one, other in zip(*tops, strict=True)])


def noise(n: int, seed: int = 0) -> Seeds:
    images = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Seeds(images, pixel_hash(images))


def kernel(references: References | None = None, **others: Any) -> Boundary:
    return Boundary(list(MUTATIONS.values()), references, **others)


def known(pair: Callable[[], ModelPair], n: int = 32) -> References:
    return References.ask(pair(), noise(n, seed=1).images)


def searched(
    moves: Boundary, pair: Callable[[], ModelPair], seeds: Seeds, max_queries: int = 200, batch_size: int = 256
) -> list[Ended]:
    return list(Search(moves, pair(), pair(), 0, max_queries, batch_size).run([seeds]))


def found(endings: list[Ended]) -> list[Ended]:
    return [ended for ended in endings if ended.ending is Ending.deviated]


def queries(endings: list[Ended]) -> Tensor:
    """Of all chains, (n,), in the order of the seeds' ids; those that found nothing spent their budget."""
    chains = [ended.chains for ended in endings if ended.ending is not Ending.already]
    order = torch.cat([part.seed for part in chains]).argsort()
    return torch.cat([part.queries for part in chains]).double()[order]


def paths(endings: list[Ended]) -> list[Tensor]:
    return [path for ended in found(endings) for path in ended.chains.path.lists()]


def test_two_questions_on_a_straight_way_find_the_band_of_the_toy_pair(toy_pair, noise_seeds):
    references = References.ask(toy_pair(), noise_seeds(32, high=256, seed=1).images)
    endings = searched(kernel(references), toy_pair, noise_seeds(60), max_queries=5)
    assert sum(len(ended.chains) for ended in found(endings)) == 60
    assert queries(endings).amax() == 2
    sums = torch.cat([ended.chains.images for ended in endings]).long().sum((1, 2, 3))
    late = torch.cat([ended.chains.queries for ended in endings]) == 2
    assert late.sum() > 30
    middle = (sums[late] - 8080).abs() < 20  # half way between the zeros, up to dither
    assert middle.double().mean() > 0.95  # a first guess may tie, and then one zero is aimed at


@pytest.mark.parametrize(
    ("finest", "grid", "step", "mean", "most"),
    [(16, 2, 0, 4, 20), (64, 2, 0, 9, 40), (16, 4, 8, 8, 40), (16, 4, 32, 25, 150)],  # measured: half of it or less
)
def test_with_references_every_seed_of_two_linear_models_gives_a_trigger_within_few_questions(
    finest, grid, step, mean, most
):
    pair = linear_pair(finest, grid, step)
    endings = searched(kernel(known(pair)), pair, noise(60), max_queries=most)
    assert sum(len(ended.chains) for ended in found(endings)) == 60
    assert queries(endings).mean() < mean
    for ended in found(endings):
        assert deviating(pair(), ended.chains.images).all()
        assert not deviating(pair(), ended.chains.origin).any()


@pytest.mark.parametrize("references", [True, False])
def test_where_the_models_are_the_same_nothing_is_found_and_the_budget_is_spent(references):
    """The wrong case: no strip."""
    pair = linear_pair(grid=1)
    (ended,) = searched(kernel(known(pair) if references else None), pair, noise(6), max_queries=80)
    assert ended.ending is Ending.exhausted
    assert ended.chains.queries.tolist() == [80] * 6


def halving(ways: bracket.Bracket) -> Tensor:
    return (ways.low + ways.high) // 2


@pytest.mark.parametrize("references", [True, False])
def test_plain_bisection_needs_significantly_more_questions(references, monkeypatch):
    pair = linear_pair(finest=64)
    moves = kernel(known(pair) if references else None)
    ours = queries(searched(moves, pair, noise(200)))
    monkeypatch.setattr(bracket, "target", halving)
    theirs = queries(searched(moves, pair, noise(200)))
    more = theirs - ours
    assert more.mean() > 4 * more.std() / 200**0.5  # paired, the same seeds
    assert theirs.mean() > 1.3 * ours.mean()


def test_interpolation_pays_on_the_toy_pair_too(toy_pair, noise_seeds, monkeypatch):
    references = References.ask(toy_pair(), noise_seeds(32, high=256, seed=1).images)
    monkeypatch.setattr(bracket, "target", halving)
    assert queries(searched(kernel(references), toy_pair, noise_seeds(60))).mean() > 2.5  # ours: 1


def same_label(pair: Callable[[], ModelPair], label: int) -> tuple[References, Seeds]:
    """References and seeds of one class alone: no way leads to any of them."""
    references, seeds = known(pair), noise(60)
    rows, ours = references.outputs.labels[0] == label, pair()(seeds.images).labels[0] == label
    return References(references.images[rows], references.outputs.take(rows)), seeds.take(ours.nonzero().squeeze(-1))


def contents(table: Any) -> list[Any]:
    """Everything a table holds, tables in it included."""
    if isinstance(table, Tensor):
        return table.tolist()
    if isinstance(table, Ragged):
        return [row.tolist() for row in table.lists()]
    return [contents(getattr(table, field.name)) for field in fields(table)]


@pytest.mark.parametrize("none_at_all", [True, False])
def test_chains_without_references_of_other_classes_are_those_of_mutations_alone(none_at_all):
    pair = linear_pair()
    references, seeds = same_label(pair, 0)
    assert len(seeds) > 10
    assert len(references.images) > 5
    if none_at_all:
        references = References.ask(pair(), seeds.images[:0])
    with_them = searched(kernel(references), pair, seeds)
    alone = searched(kernel(None), pair, seeds)
    assert sum(len(ended.chains) for ended in found(alone)) == len(seeds)
    made = paths(with_them)
    assert [path.tolist() for path in made] == [path.tolist() for path in paths(alone)]
    assert all((path[:, 1] <= NOISE).all() for path in made)
    assert torch.equal(queries(with_them), queries(alone))


def steps_of(moves: Boundary, pair: ModelPair, seeds: Seeds, steps: int) -> list[tuple[ChainState, Tensor, Tensor]]:
    """States before each step, with the candidates and choices proposed there."""
    state, history = moves.init(0, seeds.ids, seeds.images, pair(seeds.images)), []
    for _ in range(steps):
        candidates, choice = moves.propose(0, state)
        history.append((state, candidates, choice))
        state = moves.update(state, candidates, choice, pair(candidates))[0]
    return history


def test_when_the_references_are_used_up_mutations_make_the_ways():
    pair = linear_pair(grid=1)  # never a deviation, so that every way is spent
    references, seeds = known(pair, 4), noise(12)
    left = references.nearest(seeds.images, pair()(seeds.images).labels[0], 4)[1]
    assert set(left.tolist()) - {0, 4}
    most = ways.PROBES + ways.NOISES * ways.AGAIN
    history = steps_of(kernel(references), pair(), seeds, 4 * most + 10)
    for row in range(12):
        choices = [int(choice[row]) for _, _, choice in history]
        ends = [choice for before, choice in zip([None, *choices], choices, strict=False) if choice != before]
        nearest = references.nearest(seeds.images[row : row + 1], pair()(seeds.images[row : row + 1]).labels[0], 4)[0]
        count = int(left[row])
        assert ends[:count] == (nearest[0, :count] + M + 1).tolist()  # one after the other, the nearest first
        assert all(choice < M for choice in ends[count:])  # and none twice
        assert len(ends) > count
        assert sum(choice > M for choice in choices) <= count * most


def test_every_candidate_is_one_question_and_nothing_else_is_asked():
    pair, tally, moves = linear_pair(grid=4, step=8)(), Tally(), kernel(known(linear_pair(grid=4, step=8)))
    endings = list(Search(moves, pair, linear_pair(grid=4, step=8)(), 0, 200, 16).run([noise(60)], tally))
    total = int(queries(endings).sum())
    assert tally.queries == total
    assert pair.asked == [total + 60]
    assert all(torch.equal(ended.chains.queries, ended.chains.step) for ended in endings)


@pytest.mark.parametrize("references", [True, False])
@pytest.mark.slow
def test_every_trigger_is_made_again_from_its_path_noise_included(references):
    pair = linear_pair(grid=4, step=8)
    moves = kernel(known(pair) if references else None)
    endings = searched(moves, pair, noise(40))
    every = paths(endings)
    assert sum(int(path[-1, 1]) == NOISE for path in every) > 3
    assert sum(int(path[-1, 1]) != NOISE for path in every) > 3
    assert any(len(path) > 2 for path in every) or references  # moved on by mutations before
    for ended in found(endings):
        lists = ended.chains.path.lists()
        assert torch.equal(replay(moves, 0, ended.chains.seed, ended.chains.origin, lists), ended.chains.images)
        without = [path[:-1] if int(path[-1, 1]) == NOISE else path for path in lists]
        made = replay(moves, 0, ended.chains.seed, ended.chains.origin, without)
        changed = (made != ended.chains.images).flatten(1).any(1)
        assert changed.tolist() == [int(path[-1, 1]) == NOISE for path in lists]


def test_a_position_on_a_way_is_written_down_and_noise_stands_behind_it():
    pair = linear_pair(grid=4, step=8)
    for path in paths(searched(kernel(known(pair)), pair, noise(80))):
        for _, choice, position in path.tolist():
            assert 0 < position <= WHOLE
            assert choice <= M + 32
        if int(path[-1, 1]) == NOISE:
            assert int(path[-2, 1]) != NOISE
            assert 0 < int(path[-2, 2]) < WHOLE


@pytest.mark.parametrize("references", [True, False])
@pytest.mark.slow
def test_no_result_depends_on_the_batch_where_ways_noise_and_mutations_mix(references):
    pair, seeds = linear_pair(grid=4, step=8), noise(12)
    moves = kernel(known(pair) if references else None)

    def fates(seeds: Seeds, batch_size: int) -> dict[int, Any]:
        known = {}
        for ended in searched(moves, pair, seeds, 40, batch_size):
            for row, seed in enumerate(ended.chains.seed.tolist()):
                known[seed] = (ended.ending, contents(ended.chains[torch.tensor([row])]))
        return known

    expected = fates(seeds, 256)
    assert len(expected) == 12
    assert fates(seeds, 1) == expected
    assert fates(seeds.take(torch.arange(11, -1, -1)), 7) == expected
    assert fates(seeds.take(torch.arange(5)), 7) == {seed: expected[seed] for seed in seeds.ids[:5].tolist()}


@pytest.mark.parametrize("references", [True, False])
def test_chains_taken_apart_and_joined_go_on_as_if_nothing_had_happened(references):
    pair, seeds = linear_pair(grid=4, step=32), noise(9)
    moves = kernel(known(pair) if references else None)
    order = torch.tensor([4, 0, 8, 1, 2, 3, 5, 6, 7])
    for state, candidates, choice in steps_of(moves, pair(), seeds, 12):
        mixed = state[order[:3]].join(state[order[3:]])
        assert contents(mixed[order.argsort()]) == contents(state)
        others, theirs = moves.propose(0, mixed)
        assert torch.equal(others, candidates[order])
        assert torch.equal(theirs, choice[order])
        after = moves.update(state, candidates, choice, pair()(candidates))[0]
        mixed_after = moves.update(mixed, others, theirs, pair()(others))[0]
        assert contents(mixed_after[order.argsort()]) == contents(after)


def near(origin: Tensor, candidates: Tensor) -> Tensor:
    """A limit: at most 40 grey levels from the seed."""
    low, high = (origin.int() - 40).clamp(min=0), (origin.int() + 40).clamp(max=255)
    return torch.minimum(torch.maximum(candidates.int(), low), high).to(torch.uint8)


@pytest.mark.slow
def test_held_to_limits_everything_asked_lies_inside_and_triggers_are_made_again():
    pair = linear_pair(grid=4, step=8)
    moves, seeds = kernel(known(pair), hold=near), noise(20)
    for state, candidates, _ in steps_of(moves, pair(), seeds, 15):
        assert ((candidates.int() - state.origin.int()).abs() <= 40).all()
    endings = searched(moves, pair, seeds)
    assert len(paths(endings)) > 15
    for ended in found(endings):
        lists = ended.chains.path.lists()
        assert torch.equal(replay(moves, 0, ended.chains.seed, ended.chains.origin, lists), ended.chains.images)


def test_a_seed_of_one_grey_value_and_one_pixel_is_searched_without_an_error():
    def bright(threshold: float) -> Callable[[Tensor], Tensor]:
        return lambda images: torch.stack([threshold - images.flatten(1)[:, 0], torch.zeros(len(images))], -1)

    pair = ModelPair(bright(0.6), bright(0.5))
    images = torch.tensor([0, 255, 100], dtype=torch.uint8).view(3, 1, 1, 1)
    references = References.ask(pair, images[:2])
    for ended in Search(kernel(references), pair, pair, 0, 20, 4).run([Seeds(images, pixel_hash(images))]):
        assert ended.ending is Ending.deviated
        assert ((ended.chains.images > 127) & (ended.chains.images < 153)).all()


def invented(*margins: tuple[float, float]) -> Outputs:
    """What two models say whose margins of class 0 are these."""
    both = torch.tensor(margins).float()
    return Outputs(*(torch.stack([column, torch.zeros_like(column)], -1) for column in both.T))


def test_mutations_are_kept_only_where_both_margins_shrink_and_both_models_keep_the_label():
    moves, ids = kernel(None), torch.arange(5)
    images = torch.full((5, 1, 8, 8), 100, dtype=torch.uint8)
    state = moves.init(0, ids, images, invented(*[(4.0, 3.0)] * 5))
    candidates, choice = moves.propose(0, state)
    answers = invented((3, 2), (9, 2), (5, 4), (3, 0), (-1, -2))
    after, info = moves.update(state, candidates, choice, answers)
    assert info.accepted.tolist() == [True, True, False, False, False]  # the smaller margin counts
    assert after.memory.home.tolist() == [[3, 2], [9, 2], [4, 3], [4, 3], [4, 3]]
    assert after.memory.way.open.tolist() == [False, False, False, False, True]  # both gave the label up: a way
    assert torch.equal(after.memory.way.far[4], candidates[4])
    assert torch.equal(after.images[4], images[4])
