"""The moves of a chain with invented answers: no model is asked here."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dflare import fitness, selection
from dflare.chain import ChainState, Kernel, replay
from dflare.classifiers import Outputs
from dflare.crossing import WHOLE
from dflare.errors import InputError
from dflare.mutations import MUTATIONS
from dflare.search import Search
from dflare.strategies import make_kernel
from dflare.walk import Walk

IDS = torch.tensor([11, 22])


def images(value: int = 100, n: int = 2) -> Tensor:
    return torch.full((n, 1, 4, 4), value, dtype=torch.uint8)


def answers(original: list[list[float]], compressed: list[list[float]]) -> Outputs:
    """Outputs whose probabilities are those given."""
    return Outputs(torch.tensor(original).log(), torch.tensor(compressed).log())


SURE = answers([[0.9, 0.1]] * 2, [[0.9, 0.1]] * 2)
"""Both models say the same of both images: fitness 0."""


def start(kernel: Kernel, outputs: Outputs = SURE) -> ChainState:
    return kernel.init(0, IDS, images(), outputs)


def told(kernel: Kernel, state: ChainState, value: int, outputs: Outputs, choice: int = 2) -> ChainState:
    """The chains after candidates of that grey level got that answer."""
    return kernel.update(state, images(value, len(state)), torch.full((len(state),), choice), outputs)[0]


def test_a_chain_starts_at_its_seed_with_nothing_counted():
    kernel = make_kernel("dflare")
    state = start(kernel, answers([[0.9, 0.1]] * 2, [[0.6, 0.4]] * 2))
    assert len(state) == 2
    torch.testing.assert_close(state.memory.fitness, torch.tensor([0.3, 0.3]))  # no bonus for the seed itself
    assert state.memory.seen.count.tolist() == [1, 1]  # but its probabilities are known
    assert state.path.count.tolist() == state.step.tolist() == state.queries.tolist() == [0, 0]
    assert state.memory.tried.shape == state.memory.helped.shape == (2, 7)
    assert not state.memory.tried.any()
    assert torch.equal(state.images, state.origin)


def test_first_mutations_are_drawn_by_run_seed_and_id():
    kernel, n = make_kernel("dflare"), 700
    outputs = answers([[0.9, 0.1]] * n, [[0.9, 0.1]] * n)
    first = kernel.init(0, torch.arange(n), images(n=n), outputs).memory.last
    again = kernel.init(0, torch.arange(n).flip(0), images(n=n), outputs).memory.last.flip(0)
    assert torch.equal(first, again)
    assert not torch.equal(first, kernel.init(1, torch.arange(n), images(n=n), outputs).memory.last)
    assert torch.bincount(first, minlength=7).min() > 60  # 100 expected, sigma 9.3


def test_a_candidate_is_accepted_when_its_fitness_does_not_fall():
    kernel = make_kernel("no-novelty")
    state = told(kernel, start(kernel), 101, answers([[0.9, 0.1]] * 2, [[0.7, 0.3], [0.9, 0.1]]))
    assert state.images.flatten(1)[:, 0].tolist() == [101, 101]  # better, and equal
    torch.testing.assert_close(state.memory.fitness, torch.tensor([0.2, 0.0]))
    state = told(kernel, state, 102, answers([[0.9, 0.1]] * 2, [[0.8, 0.2], [0.8, 0.2]]))
    assert state.images.flatten(1)[:, 0].tolist() == [101, 102]  # worse, and better
    torch.testing.assert_close(state.memory.fitness, torch.tensor([0.2, 0.1]))


def test_everything_is_counted_by_chain():
    kernel = make_kernel("no-novelty")
    state = start(kernel)
    for choice, second in ((2, [0.7, 0.3]), (4, [0.8, 0.2]), (5, [0.6, 0.4])):  # accepted, refused, accepted
        outputs = answers([[0.9, 0.1]] * 2, [[0.9, 0.1], second])
        state, info = kernel.update(state, images(101), torch.tensor([3, choice]), outputs)
        assert state.memory.last.tolist() == [3, choice]  # tried last, accepted or not
    assert state.memory.tried.tolist() == [[0, 0, 0, 3, 0, 0, 0], [0, 0, 1, 0, 1, 1, 0]]
    assert state.memory.helped.tolist() == [[0, 0, 0, 3, 0, 0, 0], [0, 0, 1, 0, 0, 1, 0]]
    assert state.step.tolist() == state.queries.tolist() == [3, 3]
    assert [path.tolist() for path in state.path.lists()] == [
        [[1, 3, WHOLE], [2, 3, WHOLE], [3, 3, WHOLE]],
        [[1, 2, WHOLE], [3, 5, WHOLE]],
    ]
    assert info.accepted.tolist() == [True, True]
    assert info.deviates.tolist() == [False, False]
    assert info.choice.tolist() == [3, 5]


def test_ties_are_counted_and_do_not_end_anything():
    kernel = make_kernel("dflare")
    tie = answers([[0.5, 0.5], [0.9, 0.1]], [[0.4, 0.6], [0.9, 0.1]])
    state, info = kernel.update(start(kernel), images(101), torch.tensor([0, 0]), tie)
    assert state.ties.tolist() == [1, 0]
    assert not info.deviates.any()


def test_a_deviation_is_accepted_however_low_its_fitness():
    kernel = make_kernel("no-novelty")
    state = start(kernel, answers([[0.9, 0.1]] * 2, [[0.6, 0.4]] * 2))
    state, info = kernel.update(
        state, images(7), torch.tensor([1, 1]), answers([[0.6, 0.4], [0.6, 0.4]], [[0.4, 0.6], [0.6, 0.4]])
    )
    assert info.deviates.tolist() == info.accepted.tolist() == [True, False]
    assert state.images.flatten(1)[:, 0].tolist() == [7, 100]
    assert [path.tolist() for path in state.path.lists()] == [[[1, 1, WHOLE]], []]


def test_a_bonus_once_earned_stays_in_the_bar():
    new = answers([[0.55, 0.45]] * 2, [[0.52, 0.48]] * 2)  # (0.35^2 + 0.38^2) * 2 = 0.53 from the seed's pair: new
    better = answers([[0.6, 0.4]] * 2, [[0.51, 0.49]] * 2)  # divergence 0.09 instead of 0.03, but near the former
    published, plain = make_kernel("dflare"), make_kernel("no-novelty")
    state = told(published, start(published), 101, new)
    torch.testing.assert_close(state.memory.fitness, torch.tensor([1.03, 1.03]))
    assert state.memory.seen.count.tolist() == [2, 2]
    refused = told(published, state, 102, better)
    assert refused.images.flatten(1)[:, 0].tolist() == [101, 101]
    assert refused.memory.seen.count.tolist() == [2, 2]
    accepted = told(plain, told(plain, start(plain), 101, new), 102, better)
    assert accepted.images.flatten(1)[:, 0].tolist() == [102, 102]


def test_what_was_refused_is_known_all_the_same():
    kernel = Walk([*MUTATIONS.values()], selection.uniform, fitness.divergence, fitness.not_worse)
    state = start(kernel, answers([[0.9, 0.1]] * 2, [[0.6, 0.4]] * 2))
    state = told(kernel, state, 101, answers([[0.1, 0.9]] * 2, [[0.11, 0.89]] * 2))
    assert state.images.flatten(1)[:, 0].tolist() == [100, 100]
    assert state.memory.seen.count.tolist() == [2, 2]


def test_scores_steer_the_choice():
    kernel = make_kernel("dflare", ["average_blur", "median_blur"])
    n = 4000
    outputs = answers([[0.9, 0.1]] * n, [[0.9, 0.1]] * n)
    state = kernel.init(0, torch.arange(n), images(n=n), outputs)
    good = torch.tensor([0.0, 1.0]).expand(n, 2)
    last = torch.ones(n, dtype=torch.int64)
    memory = replace(state.memory, tried=torch.ones(n, 2), helped=good, last=last)
    _, choice = kernel.propose(0, replace(state, memory=memory))
    assert abs(float((choice == 1).float().mean()) - 2 / 3) < 5 * (2 / 9 / n) ** 0.5  # weights 1 and 1/2


def test_proposing_changes_nothing_and_repeats_itself():
    kernel = make_kernel("dflare")
    state = start(kernel)
    first, second = kernel.propose(0, state), kernel.propose(0, state)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.equal(state.images, images())
    assert state.step.tolist() == [0, 0]


def test_a_proposal_does_not_depend_on_who_else_is_in_the_batch(noise_seeds):
    kernel, seeds = make_kernel("dflare"), noise_seeds(20)
    outputs = answers([[0.9, 0.1]] * 20, [[0.9, 0.1]] * 20)
    state = kernel.init(0, seeds.ids, seeds.images, outputs)
    candidates, choice = kernel.propose(0, state)
    rows = torch.tensor([13, 2, 7])
    some, some_choice = kernel.propose(0, state[rows])
    assert torch.equal(some, candidates[rows])
    assert torch.equal(some_choice, choice[rows])
    assert not torch.equal(kernel.propose(1, state)[0], candidates)


def test_chains_joined_go_on_as_they_would_apart():
    kernel = make_kernel("dflare")
    one = told(kernel, start(kernel), 101, answers([[0.55, 0.45]] * 2, [[0.52, 0.48]] * 2))
    both = one.join(start(kernel))
    assert len(both) == 4
    assert both.seed.tolist() == [11, 22, 11, 22]
    assert both.memory.seen.count.tolist() == [2, 2, 1, 1]
    assert torch.equal(kernel.propose(0, both)[0][:2], kernel.propose(0, one)[0])


def test_floats_are_refused_as_seed_images():
    with pytest.raises(InputError, match="uint8"):
        make_kernel("dflare").init(0, IDS, images().float(), SURE)


@pytest.mark.parametrize("strategy", ["dflare", "random", "dflare-released", "margin", "boundary-walk"])
def test_replay_makes_every_image_again_from_its_seed(strategy, toy_pair, noise_seeds):
    kernel = make_kernel(strategy)
    lengths = []
    for ended in Search(kernel, toy_pair(), toy_pair(), 3, max_queries=20, batch_size=16).run([noise_seeds(24)]):
        chains, paths = ended.chains, ended.chains.path.lists()
        before = chains.origin.clone()
        assert torch.equal(replay(kernel, 3, chains.seed, chains.origin, paths), chains.images)
        assert torch.equal(chains.origin, before)
        lengths += [len(path) for path in paths]
    assert max(lengths) > 3
