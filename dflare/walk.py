"""The random walk of mutations: DFLARE and its relatives, which differ in the parts they are made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dflare import novelty, ragged
from dflare.chain import ChainState, StepInfo, advance, begin, entry
from dflare.classifiers import Outputs
from dflare.fitness import Acceptance, Fitness
from dflare.mutations import Mutation, mutate
from dflare.ragged import Ragged
from dflare.random import Draws, Purpose
from dflare.selection import Selection

Hold = Callable[[Tensor, Tensor], Tensor]
"""(seed images, candidates), uint8 (n, c, h, w) -> the candidates brought back inside the limits of validity"""


def anywhere(origin: Tensor, candidates: Tensor) -> Tensor:
    """No limits: the candidates as they are."""
    return candidates


@dataclass(frozen=True)
class Memory:
    """What n walks remember beside their images."""

    fitness: Tensor  # (n,) float32, the bar
    last: Tensor  # (n,) int64, the mutation tried last
    tried: Tensor  # (n, mutations) float32
    helped: Tensor  # (n, mutations) float32, how often it was accepted
    seen: Ragged  # (n, capacity, 2 * classes) pairs of probability vectors that were new


@dataclass(frozen=True)
class Walk:
    """Mutations x selection x fitness x acceptance: one mutation of the current image a step (DFLARE, section 4)."""

    mutations: Sequence[Mutation]
    select: Selection
    fitness: Fitness
    accept: Acceptance
    first_bar: Fitness | None = None  # what the first candidate is held against; None: the seed's own fitness
    remember: bool = True  # pairs of probability vectors, for novelty; False where no part asks for it
    hold: Hold = anywhere

    def init(self, seed: int, ids: Tensor, images: Tensor, outputs: Outputs) -> ChainState:
        """Chains at their seed images; a seed's own pair of probability vectors is known and earns no bonus."""
        n, m, device = len(images), len(self.mutations), images.device
        everyone = torch.ones(n, dtype=torch.bool, device=device)
        bar = self.first_bar or self.fitness
        memory = Memory(
            fitness=bar(outputs, ~everyone),
            last=Draws.of(seed, ids, torch.zeros_like(ids)).purpose(Purpose.FIRST).integers(m),
            tried=torch.zeros(n, m, device=device),
            helped=torch.zeros(n, m, device=device),
            seen=self._novelty(ragged.empty(n, 2 * outputs.original.shape[1], device=device), outputs)[1],
        )
        return begin(ids, images, memory)

    def propose(self, seed: int, state: ChainState) -> tuple[Tensor, Tensor]:
        """The current images mutated once, and by which mutation."""
        draws, memory = Draws.of(seed, state.seed, state.step + 1), state.memory
        choice = self.select(memory.last, memory.helped / memory.tried.clamp(min=1), draws)
        return self.hold(state.origin, mutate(state.images, choice, self.mutations, draws)), choice

    def update(
        self, state: ChainState, candidates: Tensor, choice: Tensor, outputs: Outputs
    ) -> tuple[ChainState, StepInfo]:
        """Accept what deviates or is good enough; what was refused is known all the same."""
        memory, deviates = state.memory, outputs.deviates
        novel, seen = self._novelty(memory.seen, outputs)
        fitness = self.fitness(outputs, novel)
        accepted = deviates | self.accept(fitness, memory.fitness, novel)
        used = F.one_hot(choice, len(self.mutations)).float()
        after = Memory(
            fitness=torch.where(accepted, fitness, memory.fitness),
            last=choice,
            tried=memory.tried + used,
            helped=memory.helped + used * accepted[:, None],
            seen=seen,
        )
        moved = advance(state, candidates, outputs, accepted, entry(state.step + 1, choice), after)
        return moved, StepInfo(candidates, choice, outputs, accepted, deviates)

    def remake(self, seed: int, ids: Tensor, origin: Tensor, images: Tensor, entries: Tensor) -> Tensor:
        """The mutation drawn at that step again."""
        return self.hold(origin, mutate(images, entries[:, 1], self.mutations, Draws.of(seed, ids, entries[:, 0])))

    def _novelty(self, seen: Ragged, outputs: Outputs) -> tuple[Tensor, Ragged]:
        """Which pairs of probability vectors are new to their chain (n,), and the lists with them."""
        if not self.remember:
            return torch.zeros_like(outputs.deviates), seen
        joint = outputs.joint
        novel = novelty.distance(seen, joint) > novelty.THRESHOLD
        return novel, seen.append(joint, novel)
