"""The random walk: batched against a plain loop over one chain, and the law of every part it is made of."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dflare import fitness, selection
from dflare.chain import ChainState, Kernel, replay
from dflare.classifiers import ModelPair, Outputs
from dflare.mutations import MUTATIONS, mutate
from dflare.random import Draws, Purpose
from dflare.references import References
from dflare.released import RELEASED
from dflare.seeds import Seeds
from dflare.strategies import STRATEGIES, make_kernel
from dflare.walk import Walk

WALKS = [name for name in STRATEGIES if not STRATEGIES[name].gradients and isinstance(make_kernel(name), Walk)]
STEPS = 25


def noisy_sums(images: Tensor) -> Tensor:
    """Scores that move with every mutation; whole sums, so the same in every batch."""
    sums = (images * 255).round().flatten(1)
    return torch.stack([sums.sum(1), 2 * sums[:, ::2].sum(1), 2 * sums[:, 1::2].sum(1)], -1) / 512


@pytest.fixture
def pair() -> ModelPair:
    """Never deviates, but the compressed model is less sure: every part of a walk has something to decide."""
    return ModelPair(noisy_sums, lambda images: noisy_sums(images) * 0.75)


def history(kernel: Kernel, pair: ModelPair, seeds: Seeds, steps: int = STEPS) -> list[tuple[ChainState, Tensor]]:
    """The states after 0, 1, ... steps, with what was accepted in the step before."""
    state = kernel.init(0, seeds.ids, seeds.images, pair(seeds.images))
    states = [(state, torch.ones(len(state), dtype=torch.bool))]
    for _ in range(steps):
        candidates, choice = kernel.propose(0, state)
        state, info = kernel.update(state, candidates, choice, pair(candidates))
        states.append((state, info.accepted))
    return states


def released_loop(pair: ModelPair, seeds: Seeds, row: int) -> tuple[Tensor, list[int], float]:
    """The authors' rules for one image, with the draws of its chain: what they keep are lists and dictionaries."""
    image, seed = seeds.images[row : row + 1], seeds.ids[row : row + 1]
    tried, helped, bar, steps = [0] * 7, [0] * 7, 0.0, []
    seen = [pair(image).joint[0]]
    for step in range(1, STEPS + 1):
        draws = Draws.of(0, seed, torch.tensor([step]))
        scores = torch.tensor([[h / max(t, 1) for h, t in zip(helped, tried, strict=True)]])
        choice = selection.forgetful(torch.tensor([-1]), scores, draws)
        candidate = mutate(image, choice, list(RELEASED.values()), draws)
        outputs = pair(candidate)
        new = min(float((outputs.joint[0] - other).square().sum()) for other in seen) > 0.5
        value = float((outputs.probabilities[0].max() - outputs.probabilities[1].max()).abs())
        tried[int(choice)] += 1
        if new:
            seen.append(outputs.joint[0])
        if new or abs(value - bar) > 0.001:
            image, bar = candidate, value
            helped[int(choice)] += 1
            steps.append(step)
    return image, steps, bar


def test_the_released_strategy_is_the_plain_loop_of_the_authors_rules(pair, noise_seeds):
    seeds = noise_seeds(12, high=256)
    state, _ = history(make_kernel("dflare-released"), pair, seeds)[-1]
    refused = 0
    for row in range(12):
        image, steps, bar = released_loop(pair, seeds, row)
        assert torch.equal(state.images[row], image[0])
        assert state.path.lists()[row][:, 0].tolist() == steps
        assert float(state.memory.fitness[row]) == pytest.approx(bar, abs=1e-6)
        refused += STEPS - len(steps)
    assert 20 < refused < 12 * STEPS - 20  # both answers occur


@pytest.mark.parametrize("other", ["dflare", "no-novelty", "margin"])
def test_other_strategies_are_not_that_loop(other, pair, noise_seeds):
    seeds, moves = noise_seeds(12, high=256), make_kernel(other, ["released"])
    paths = history(moves, pair, seeds)[-1][0].path.lists()
    assert any(paths[row][:, 0].tolist() != released_loop(pair, seeds, row)[1] for row in range(12))


@pytest.mark.parametrize(
    ("strategy", "holds"), [("dflare", True), ("no-novelty", True), ("random", False), ("dflare-released", False)]
)
def test_the_bar_of_the_published_search_never_falls(strategy, holds, pair, noise_seeds):
    bars = torch.stack([state.memory.fitness for state, _ in history(make_kernel(strategy), pair, noise_seeds(40))])
    assert bool((bars.diff(dim=0) >= 0).all()) is holds


@pytest.mark.parametrize(("strategy", "holds"), [("margin", True), ("random", False), ("no-novelty", False)])
def test_margins_never_widen_along_the_margin_walk(strategy, holds, pair, noise_seeds):
    states = history(make_kernel(strategy), pair, noise_seeds(40))
    margins = torch.stack([pair(state.images).score_margin for state, _ in states])
    assert bool((margins.diff(dim=0) <= 0).all()) is holds


def test_the_random_walk_accepts_everything_and_draws_uniformly(pair, noise_seeds):
    states = history(make_kernel("random"), pair, noise_seeds(200))
    assert all(accepted.all() for _, accepted in states)
    tried = states[-1][0].memory.tried.sum(0)
    expected = 200 * STEPS / len(MUTATIONS)
    assert ((tried - expected).square() / expected).sum() < 30  # chi-square, 6 degrees of freedom: 1 in 25,000
    assert torch.equal(states[-1][0].memory.helped, states[-1][0].memory.tried)


def test_the_first_candidate_of_the_released_code_is_held_against_nothing():
    sure = Outputs(torch.tensor([[2.0, 0]]), torch.tensor([[1.0, 0]]))  # the seed and its first candidate alike
    image = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    for strategy, accepted in (("dflare-released", True), ("no-novelty", True)):
        kernel = make_kernel(strategy)
        state = kernel.init(0, torch.tensor([1]), image, sure)
        assert (float(state.memory.fitness) == 0) is (strategy == "dflare-released")
        state, info = kernel.update(state, image, torch.tensor([0]), sure)
        assert info.accepted.tolist() == [accepted]
        again = kernel.update(state, image, torch.tensor([0]), sure)[1]
        assert again.accepted.tolist() == [strategy == "no-novelty"]  # no change: refused by the released code alone


@pytest.mark.parametrize("strategy", WALKS)
def test_nothing_is_remembered_where_no_part_asks_for_novelty(strategy, pair, noise_seeds):
    kernel = make_kernel(strategy)
    state = history(kernel, pair, noise_seeds(20, high=256))[-1][0]
    asks = kernel.fitness is fitness.divergence_and_novelty or kernel.accept is fitness.changed
    assert bool((state.memory.seen.count > 0).all()) is asks
    assert kernel.remember is asks


@pytest.mark.parametrize("strategy", WALKS)
def test_every_image_of_a_walk_is_made_again_from_its_path(strategy, pair, noise_seeds):
    seeds, kernel = noise_seeds(10, high=256), make_kernel(strategy)
    for state, _ in history(kernel, pair, seeds)[::6]:
        assert torch.equal(replay(kernel, 0, seeds.ids, seeds.images, state.path.lists()), state.images)
    paths = state.path.lists()
    other = replay(kernel, 1, seeds.ids, seeds.images, paths)  # another run seed
    assert not torch.equal(other, state.images)


def darker(origin: Tensor, candidates: Tensor) -> Tensor:
    """A limit: no value above its seed's, none more than 30 below."""
    return torch.minimum(torch.maximum(candidates, origin.clamp(min=30) - 30), origin)


@pytest.mark.parametrize("strategy", WALKS)
def test_limits_hold_for_everything_asked_and_for_what_is_made_again(strategy, pair, noise_seeds):
    seeds, kernel = noise_seeds(10, high=256), make_kernel(strategy, hold=darker)
    states = history(kernel, pair, seeds)
    for state, _ in states:
        candidates = kernel.propose(0, state)[0].int()
        assert (candidates <= state.origin).all()
        assert (candidates >= state.origin.int() - 30).all()
    last = states[-1][0]
    assert torch.equal(replay(kernel, 0, seeds.ids, seeds.images, last.path.lists()), last.images)
    without = history(make_kernel(strategy), pair, seeds)
    assert any((state.images > state.origin).any() for state, _ in without)  # the wrong case


def test_references_change_nothing_for_strategies_that_use_none(pair, noise_seeds):
    seeds = noise_seeds(5)
    references = References.ask(pair, noise_seeds(5, seed=1).images)
    one, other = make_kernel("dflare"), make_kernel("dflare", references=references)
    assert torch.equal(history(one, pair, seeds)[-1][0].images, history(other, pair, seeds)[-1][0].images)


def test_the_choice_is_what_the_selection_says_of_the_last_and_of_the_shares_that_helped(noise_seeds):
    asked: list[tuple[Tensor, Tensor]] = []

    def select(last: Tensor, scores: Tensor, draws: Draws) -> Tensor:
        asked.append((last, scores))
        return draws.purpose(Purpose.PROPOSAL).integers(scores.shape[-1])

    seeds = noise_seeds(3)
    kernel = Walk(list(MUTATIONS.values()), select, fitness.divergence, fitness.not_worse, remember=False)
    flat = ModelPair(lambda images: torch.zeros(len(images), 2), lambda images: torch.zeros(len(images), 2))
    state = kernel.init(0, seeds.ids, seeds.images, flat(seeds.images))
    tried = torch.tensor([[4.0, 0, 2, 0, 0, 0, 1]] * 3)
    helped = torch.tensor([[1.0, 0, 2, 0, 0, 0, 0]] * 3)
    state = replace(state, memory=replace(state.memory, tried=tried, helped=helped, last=torch.tensor([2, 3, 4])))
    kernel.propose(0, state)
    assert asked[0][0].tolist() == [2, 3, 4]
    assert asked[0][1].tolist() == [[0.25, 0, 1, 0, 0, 0, 0]] * 3
