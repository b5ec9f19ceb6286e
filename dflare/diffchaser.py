"""DiffChaser's genetic search: a population a seed, bred towards images on which the models are unsure.

Xie et al., "DiffChaser: Detecting Disagreements for Deep Neural Networks", IJCAI 2019. Its code is not public, and of
the paper only algorithm 1 and the idea of the fitness were at hand, not its numbers. What is whose:

* algorithm 1: a population bred from the seed; in each iteration every individual but the fittest makes way, in place,
  for the mutated crossover of two selected ones; the end is a disagreement or a spent budget;
* its k-uncertainty fitness: the k highest probabilities should lie close together (`uncertainty`);
* ours: all numbers below, chosen on 50 MNIST images and two compressed LeNet-5 so that the baseline is no straw man;
  tournaments for parents; pixels from either parent; normal noise as mutation; the sum of the two models'
  uncertainties; and that a child's fitness counts as soon as it has been asked, where algorithm 1 calculates the whole
  population's anew once an iteration.

Every step asks one individual. What a chain keeps is a population of images: a batch of them takes
batch x `POPULATION` x pixels bytes.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dflare.chain import ChainState, StepInfo, advance, begin, entry
from dflare.classifiers import Outputs
from dflare.errors import InputError
from dflare.ragged import Ragged
from dflare.random import Draws, Purpose
from dflare.walk import Hold, anywhere

POPULATION = 20
"""Individuals, the seed among them; small, so that a budget of 1,000 questions lasts for some fifty iterations."""

K = 2
"""Probabilities compared; with 2 the fitness is the margin, whichever way the differences of k are added up."""

CONTENDERS = 5
"""Individuals in a tournament for the place of a parent."""

RATE = 0.05
"""Share of an image's values that a mutation changes."""

SIGMA = 128.0
"""Of the noise that changes them, in grey levels."""


@dataclass(frozen=True)
class Memory:
    """What n genetic searches remember: their populations."""

    population: Tensor  # (n, individuals, c, h, w) uint8
    fitness: Tensor  # (n, individuals) float32 >= 0, less is better; infinite for those that were not asked yet
    place: Tensor  # (n,) int64, whose turn it is to be replaced
    best: Tensor  # (n,) int64, the place of the fittest, which stays


@dataclass(frozen=True)
class DiffChaser:
    """Selection x crossover x mutation over a population a seed. Choices, in paths: the place in the population.

    Parents are what the models' answers made of them, so a child cannot be made again from its seed and the draws:
    a path holds its last entry alone, and `remake` refuses it. Triggers are kept as images in any case.
    """

    hold: Hold = anywhere
    individuals: int = POPULATION
    k: int = K
    contenders: int = CONTENDERS
    rate: float = RATE
    sigma: float = SIGMA

    def __post_init__(self) -> None:
        if self.individuals < 2:
            raise ValueError(f"a population needs at least 2 individuals, got {self.individuals}")

    def init(self, seed: int, ids: Tensor, images: Tensor, outputs: Outputs) -> ChainState:
        """Chains whose population is the seed, in place 0; the other places are filled one by one."""
        n, zeros = len(images), torch.zeros_like(ids)
        fitness = torch.full((n, self.individuals), torch.inf, device=images.device)
        fitness[:, 0] = uncertainty(outputs, self.k)
        population = images[:, None].repeat(1, self.individuals, *[1] * (images.ndim - 1))
        return begin(ids, images, Memory(population, fitness, zeros + 1, zeros))

    def propose(self, seed: int, state: ChainState) -> tuple[Tensor, Tensor]:
        """The next individual: the seed mutated while the population is being filled, then a child of two parents."""
        draws = Draws.of(seed, state.seed, state.step + 1)
        unfilled = state.memory.fitness.isinf().any(-1).view(-1, 1, 1, 1)
        crossed = torch.where(unfilled, state.origin, self._crossover(state.memory, draws))
        return self.hold(state.origin, self._mutated(crossed, draws)), state.memory.place

    def update(
        self, state: ChainState, candidates: Tensor, choice: Tensor, outputs: Outputs
    ) -> tuple[ChainState, StepInfo]:
        """Put the candidates into their places; the fittest so far, or what deviates, is the chain's image."""
        memory, deviates = state.memory, outputs.deviates
        fitness, rows = uncertainty(outputs, self.k), torch.arange(len(state), device=choice.device)
        better = fitness < memory.fitness[rows, memory.best]
        accepted = deviates | better
        population, known = memory.population.clone(), memory.fitness.clone()
        population[rows, choice], known[rows, choice] = candidates, fitness
        best = torch.where(better, choice, memory.best)
        after = Memory(population, known, self._next_place(choice, best), best)
        alone = Ragged(state.path.values, torch.where(accepted, 0, state.path.count))
        moved = advance(replace(state, path=alone), candidates, outputs, accepted, entry(state.step + 1, choice), after)
        return moved, StepInfo(candidates, choice, outputs, accepted, deviates)

    def remake(self, seed: int, ids: Tensor, origin: Tensor, images: Tensor, entries: Tensor) -> Tensor:
        """Raise `InputError`: a child of a population cannot be made again."""
        raise InputError(
            "a trigger of search.strategy=diffchaser cannot be made again from its seed, because its parents depended "
            "on what the models said; use the saved image"
        )

    def _crossover(self, memory: Memory, draws: Draws) -> Tensor:
        """Children uint8 (n, c, h, w): each value from either of two parents, both winners of tournaments."""
        drawn = draws.purpose(Purpose.PROPOSAL).integers(self.individuals, 2 * self.contenders)
        strength = memory.fitness.gather(1, drawn).view(-1, 2, self.contenders)
        winner = strength.argsort(dim=-1, stable=True)[..., :1]
        parents = drawn.view(-1, 2, self.contenders).gather(-1, winner).squeeze(-1)
        rows = torch.arange(len(parents), device=parents.device)
        first, second = (memory.population[rows, parents[:, k]] for k in range(2))
        return torch.where(draws.purpose(Purpose.PLACE).integers(2, *first.shape[1:]) > 0, first, second)

    def _mutated(self, images: Tensor, draws: Draws) -> Tensor:
        """The images with normal noise over a share of their values, uint8."""
        shape = images.shape[1:]
        changed = draws.purpose(Purpose.ACCEPTANCE).uniform(*shape) < self.rate
        noise = self.sigma * draws.purpose(Purpose.VALUE).normal(*shape)
        noisy = (images + noise).round_().clamp_(0, 255).to(torch.uint8)
        return torch.where(changed, noisy, images)

    def _next_place(self, place: Tensor, best: Tensor) -> Tensor:
        """The place after this one, in a circle that leaves out the fittest's."""
        following = (place + 1) % self.individuals
        return torch.where(following == best, (following + 1) % self.individuals, following)


def uncertainty(outputs: Outputs, k: int = K) -> Tensor:
    """How far the k highest probabilities lie apart, highest minus k-th, of both models together, (n,) in [0, 2].

    0 where both models find k classes equally likely. Of fewer than k classes, all are compared.
    """
    tops = [probabilities.topk(min(k, probabilities.shape[-1]), -1).values for probabilities in outputs.probabilities]
    return torch.stack([top[:, 0] - top[:, -1] for top in tops]).sum(0)
