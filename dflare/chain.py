"""One search chain per seed image, moved together: propose candidates, have them asked, update."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dflare import columns, novelty, ragged
from dflare.classifiers import Outputs, check_images
from dflare.fitness import Acceptance, Fitness
from dflare.mutations import Mutation, mutate
from dflare.ragged import Ragged
from dflare.random import Draws, Purpose
from dflare.selection import Selection


@dataclass(frozen=True)
class ChainState:
    """Everything n chains carry from one step to the next; every field has leading dimension n."""

    seed: Tensor  # (n,) int64, the seed image's id
    origin: Tensor  # (n, c, h, w) uint8, the seed image
    images: Tensor  # (n, c, h, w) uint8, the current image
    fitness: Tensor  # (n,) float32
    last: Tensor  # (n,) int64, the mutation tried last
    tried: Tensor  # (n, mutations) float32
    helped: Tensor  # (n, mutations) float32, how often it was accepted
    step: Tensor  # (n,) int64, counts proposals; with run seed and id it fixes every draw
    queries: Tensor  # (n,) int64, candidates asked after the seed
    ties: Tensor  # (n,) int64, candidates on which the labels differed by a tie only
    unconfirmed: Tensor  # (n,) int64, candidates that deviated in the batch but not asked alone
    seen: Ragged  # (n, capacity, 2 * classes) pairs of probability vectors that were new
    path: Ragged  # (n, capacity, 2) int32: step and mutation of every accepted candidate

    def __len__(self) -> int:
        return len(self.seed)

    def __getitem__(self, rows: Tensor) -> "ChainState":
        """Some of the chains, selected by mask or index."""
        return columns.take(self, rows)

    def join(self, other: "ChainState") -> "ChainState":
        """The chains of both, self's first."""
        return columns.join(self, other)


class StepInfo(NamedTuple):
    """What happened in one step; nothing here is needed for the next one."""

    candidates: Tensor  # (n, c, h, w) uint8, what was asked, accepted or not
    choice: Tensor  # (n,) int64, the mutation that made it
    outputs: Outputs
    accepted: Tensor  # (n,) bool
    deviates: Tensor  # (n,) bool


@dataclass(frozen=True)
class Kernel:
    """The moves of the search: mutations x selection x fitness x acceptance. Holds no state and asks no model."""

    mutations: Sequence[Mutation]
    select: Selection
    fitness: Fitness
    accept: Acceptance

    def init(self, seed: int, ids: Tensor, images: Tensor, outputs: Outputs) -> ChainState:
        """Chains at their seed images (n, c, h, w) with ids (n,), given what both models say of those.

        The seed's own pair of probability vectors is known from the start and earns no bonus.
        """
        check_images(images)
        n, m, device = len(images), len(self.mutations), images.device
        joint, zeros = outputs.joint, torch.zeros(n, dtype=torch.int64, device=device)
        everyone = torch.ones(n, dtype=torch.bool, device=device)
        seen = ragged.empty(n, joint.shape[1], dtype=joint.dtype, device=device).append(joint, everyone)
        return ChainState(
            seed=ids,
            origin=images,
            images=images,
            fitness=self.fitness(outputs, ~everyone),
            last=Draws.of(seed, ids, zeros).purpose(Purpose.FIRST).integers(m),
            tried=torch.zeros(n, m, device=device),
            helped=torch.zeros(n, m, device=device),
            step=zeros,
            queries=zeros,
            ties=zeros,
            unconfirmed=zeros,
            seen=seen,
            path=ragged.empty(n, 2, dtype=torch.int32, device=device),
        )

    def propose(self, seed: int, state: ChainState) -> tuple[Tensor, Tensor]:
        """Candidates (n, c, h, w) uint8 and the mutations (n,) that made them; a function of run seed and state."""
        draws = Draws.of(seed, state.seed, state.step + 1)
        choice = self.select(state.last, state.helped / state.tried.clamp(min=1), draws)
        return mutate(state.images, choice, self.mutations, draws), choice

    def update(
        self, state: ChainState, candidates: Tensor, choice: Tensor, outputs: Outputs
    ) -> tuple[ChainState, StepInfo]:
        """Take in what the models say of the candidates. No model is asked and nothing is drawn here."""
        joint, deviates = outputs.joint, outputs.deviates
        novel = novelty.distance(state.seen, joint) > novelty.THRESHOLD
        fitness = self.fitness(outputs, novel)
        accepted = deviates | self.accept(fitness, state.fitness)
        used = F.one_hot(choice, len(self.mutations)).float()
        step = state.step + 1
        moved = replace(
            state,
            images=torch.where(accepted.view(-1, 1, 1, 1), candidates, state.images),
            fitness=torch.where(accepted, fitness, state.fitness),
            last=choice,
            tried=state.tried + used,
            helped=state.helped + used * accepted[:, None],
            step=step,
            queries=state.queries + 1,
            ties=state.ties + outputs.tied,
            seen=state.seen.append(joint, novel),
            path=state.path.append(torch.stack([step, choice], dim=-1).int(), accepted),
        )
        return moved, StepInfo(candidates, choice, outputs, accepted, deviates)


def replay(kernel: Kernel, seed: int, ids: Tensor, images: Tensor, paths: Sequence[Tensor]) -> Tensor:
    """The images that accepted paths lead to, uint8 (n, c, h, w): every trigger can be made again from its seed.

    `paths[i]` is (length, 2): step and mutation of each accepted candidate, as in `ChainState.path`.
    """
    current = images.clone()
    for row, path in enumerate(paths):
        here = slice(row, row + 1)
        for step, choice in path.tolist():
            draws = Draws.of(seed, ids[here], torch.full_like(ids[here], step))
            current[here] = mutate(current[here], torch.full_like(ids[here], choice), kernel.mutations, draws)
    return current
