"""The genetic search with invented answers, and its laws."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dflare.chain import ChainState, replay
from dflare.classifiers import ModelPair, Outputs
from dflare.crossing import WHOLE
from dflare.diffchaser import DiffChaser, uncertainty
from dflare.errors import InputError
from dflare.limits import Limits
from dflare.search import Ending, Search
from dflare.seeds import Seeds


def answers(*margins: float) -> Outputs:
    """Outputs whose uncertainty is that of each chain: both models' margins of probabilities add up to it."""
    half = torch.tensor(margins) / 2
    probabilities = torch.stack([(1 + half) / 2, (1 - half) / 2], dim=-1)
    return Outputs(probabilities.log(), probabilities.log())


def images(*shape: int, value: int = 100) -> Tensor:
    return torch.full(shape, value, dtype=torch.uint8)


def told(kernel: DiffChaser, state: ChainState, value: int, margin: float) -> ChainState:
    """A chain after its next individual, of that grey level, got that uncertainty."""
    choice = kernel.propose(0, state)[1]
    return kernel.update(state, images(1, 1, 4, 4, value=value), choice, answers(margin))[0]


def levels(state: ChainState) -> list[int]:
    """The grey levels of a chain's population."""
    return state.memory.population[0, :, 0, 0, 0].tolist()


def test_uncertainty_is_the_difference_between_the_highest_probabilities_of_both_models():
    outputs = Outputs(torch.tensor([[0.5, 0.2, 0.3]]).log(), torch.tensor([[0.1, 0.3, 0.6]]).log())
    torch.testing.assert_close(uncertainty(outputs, 2), torch.tensor([0.2 + 0.3]))
    torch.testing.assert_close(uncertainty(outputs, 3), torch.tensor([0.3 + 0.5]))
    torch.testing.assert_close(uncertainty(outputs, 9), torch.tensor([0.3 + 0.5]))
    torch.testing.assert_close(uncertainty(answers(0.0, 0.4, 2.0)), torch.tensor([0.0, 0.4, 2.0]))


def test_the_population_is_filled_with_mutations_of_the_seed_and_then_bred_in_place_around_the_fittest():
    kernel = DiffChaser(individuals=4)
    state = kernel.init(0, torch.tensor([7]), images(1, 1, 4, 4), answers(1.0))
    for value, margin in ((101, 1.5), (102, 0.5), (103, 0.7)):
        state = told(kernel, state, value, margin)
    assert levels(state) == [100, 101, 102, 103]
    torch.testing.assert_close(state.memory.fitness, torch.tensor([[1.0, 1.5, 0.5, 0.7]]))
    assert state.images[0, 0, 0, 0] == 102
    for value in (104, 105, 106):
        state = told(kernel, state, value, 0.9)
    assert levels(state) == [104, 105, 102, 106]  # the fittest stayed, worse than the others or not
    state = told(kernel, state, 107, 0.1)
    state = told(kernel, state, 108, 0.4)
    assert levels(state) == [107, 108, 102, 106]
    assert state.images[0, 0, 0, 0] == 107
    assert state.queries.tolist() == state.step.tolist() == [8]


@pytest.mark.parametrize("individuals", [2, 3])
def test_the_fittest_is_never_asked_to_make_way(individuals):
    kernel = DiffChaser(individuals=individuals)
    state = kernel.init(0, torch.tensor([7]), images(1, 1, 4, 4), answers(1.0))
    for margin in (0.9, 1.2, 0.8, 0.7, 1.1, 1.1, 0.3, 1.3, 1.2):
        assert state.memory.place != state.memory.best
        before = state.memory.fitness.amin()
        state = told(kernel, state, 100, margin)
        assert state.memory.fitness.amin() == pytest.approx(min(float(before), margin))


def grown(kernel: DiffChaser, n: int, size: int = 8) -> ChainState:
    """n chains whose individual i is of grey level i and fitness i: the first is the best."""
    state = kernel.init(0, torch.arange(n), images(n, 1, size, size), answers(*[1.0] * n))
    order = torch.arange(kernel.individuals)
    population = order.view(1, -1, 1, 1, 1).to(torch.uint8).expand(n, -1, 1, size, size)
    memory = replace(state.memory, population=population, fitness=order.float().expand(n, -1))
    return replace(state, memory=memory)


def winners(contenders: int, expected: int) -> float:
    """Greatest deviation, in standard errors, of how often each individual is a parent from tournaments of a size."""
    n, m = 4000, 10
    kernel = DiffChaser(individuals=m, contenders=contenders, rate=0.0)
    children = kernel.propose(0, grown(kernel, n))[0].flatten(1)
    known = torch.bincount(children[:, 0].long(), minlength=m) / n  # one value is one winner
    left = torch.arange(m, -1, -1, dtype=torch.float64) ** expected / m**expected
    chances = left[:-1] - left[1:]
    return float(((known - chances).abs() / (chances * (1 - chances) / n).sqrt()).amax())


def test_parents_win_tournaments():
    assert winners(contenders=5, expected=5) < 4.5
    assert winners(contenders=2, expected=2) < 4.5
    assert winners(contenders=1, expected=5) > 20  # a draw that looks at no fitness


def test_a_child_has_half_of_its_values_from_each_parent():
    kernel = DiffChaser(individuals=50, contenders=1, rate=0.0)
    children = kernel.propose(0, grown(kernel, 400))[0].flatten(1)
    share = []
    for child in children:
        values, counts = child.unique(return_counts=True)
        assert len(values) <= 2
        if len(values) == 2:
            share.append(counts[0] / 64)
    assert len(share) > 350
    assert abs(float(torch.stack(share).mean()) - 0.5) < 4 * 0.5 / (64 * len(share)) ** 0.5


def test_a_mutation_changes_a_share_of_the_values():
    kernel = DiffChaser(rate=0.1, sigma=30.0)
    state = kernel.init(0, torch.arange(100), images(100, 1, 16, 16, value=128), answers(*[1.0] * 100))
    change = kernel.propose(0, state)[0].float() - 128
    assert abs(float((change != 0).float().mean()) - 0.1) < 0.01
    assert abs(float(change[change != 0].std()) - 30) < 1.5


def final_fitness(contenders: int, seeds: Seeds) -> float:
    """Mean uncertainty of the last populations of a pair that never deviates and is unsure of bright images."""

    def model(scale: Tensor) -> Tensor:
        margin = (scale.sum((1, 2, 3)) - 40) / 5
        return torch.stack([-margin, margin], dim=-1)

    pair = ModelPair(model, model)
    search = Search(DiffChaser(individuals=10, contenders=contenders), pair, pair, 0, 150, 64)
    (ended,) = search.run([seeds])
    assert ended.ending is Ending.exhausted  # two equal models give no trigger
    return float(ended.chains.memory.fitness.mean())


def test_a_population_evolves_towards_low_uncertainty(noise_seeds):
    bred, drifted = final_fitness(5, noise_seeds(20)), final_fitness(1, noise_seeds(20))
    assert bred < 0.5
    assert drifted > 1.0  # parents drawn without a look at their fitness lag behind


def test_candidates_keep_to_the_limits(noise_seeds):
    limits, seeds = Limits(l_inf=20 / 255), noise_seeds(4)
    kernel = DiffChaser(limits.hold, individuals=5)
    state = kernel.init(0, seeds.ids, seeds.images, answers(*[1.0] * 4))
    for step in range(12):
        candidates, choice = kernel.propose(0, state)
        assert limits.respected(seeds.images, candidates).all()
        assert not torch.equal(candidates, seeds.images)
        state, _ = kernel.update(state, candidates, choice, answers(*[1.0 - step / 20] * 4))


def test_a_path_holds_the_last_accepted_entry_and_replay_refuses_it(toy_pair, noise_seeds):
    kernel = DiffChaser(individuals=4)
    state = kernel.init(0, torch.tensor([7]), images(1, 1, 4, 4), answers(1.0))
    assert torch.equal(replay(kernel, 0, state.seed, state.origin, state.path.lists()), state.origin)
    state = told(kernel, told(kernel, told(kernel, state, 101, 0.9), 102, 0.8), 103, 0.9)
    assert [path.tolist() for path in state.path.lists()] == [[[2, 2, WHOLE]]]
    with pytest.raises(InputError, match=r"diffchaser cannot be made again.*use the saved image"):
        replay(kernel, 0, state.seed, state.origin, state.path.lists())


def test_a_deviation_is_the_image_however_sure_the_models_are():
    kernel = DiffChaser(individuals=4)
    state = kernel.init(0, torch.tensor([7]), images(1, 1, 4, 4), answers(0.1))
    sure = Outputs(torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 9.0]]))
    state, info = kernel.update(state, images(1, 1, 4, 4, value=5), torch.tensor([1]), sure)
    assert info.deviates.all()
    assert state.images[0, 0, 0, 0] == 5


def test_one_individual_is_no_population():
    with pytest.raises(ValueError, match="at least 2 individuals, got 1"):
        DiffChaser(individuals=1)
