"""One search chain per seed image, moved together: propose candidates, have them asked, update."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dflare import columns, ragged
from dflare.classifiers import Outputs, check_images
from dflare.crossing import WHOLE
from dflare.ragged import Ragged


@dataclass(frozen=True)
class ChainState:
    """Everything n chains carry from one step to the next; every field has leading dimension n."""

    seed: Tensor  # (n,) int64, the seed image's id
    origin: Tensor  # (n, c, h, w) uint8, the seed image
    images: Tensor  # (n, c, h, w) uint8, the current image
    step: Tensor  # (n,) int64, counts proposals; with run seed and id it fixes every draw
    queries: Tensor  # (n,) int64, candidates asked after the seed
    ties: Tensor  # (n,) int64, candidates on which the labels differed by a tie only
    unconfirmed: Tensor  # (n,) int64, candidates that deviated in the batch but not asked alone
    path: Ragged  # (n, capacity, 3) int32: step, choice and position of every accepted candidate
    memory: Any  # what the strategy remembers: a table of n rows, or None

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
    choice: Tensor  # (n,) int64, what made it: a mutation's number, or what the strategy says
    outputs: Outputs
    accepted: Tensor  # (n,) bool
    deviates: Tensor  # (n,) bool


class Kernel(Protocol):
    """The moves of a search strategy, made of parts. Holds no state and, but for gradients, asks no model.

    Chains start at their seed images (n, c, h, w) with ids (n,) by `init`, given what both models say of those.
    `propose` answers with candidates uint8 (n, c, h, w) and choices (n,), a function of run seed and state.
    `update` takes in what the models say of the candidates; nothing is asked or drawn there.
    `remake` repeats one accepted candidate from the image before: entries (n, 3) as in `ChainState.path`.
    """

    def init(self, seed: int, ids: Tensor, images: Tensor, outputs: Outputs) -> ChainState: ...

    def propose(self, seed: int, state: ChainState) -> tuple[Tensor, Tensor]: ...

    def update(
        self, state: ChainState, candidates: Tensor, choice: Tensor, outputs: Outputs
    ) -> tuple[ChainState, StepInfo]: ...

    def remake(self, seed: int, ids: Tensor, origin: Tensor, images: Tensor, entries: Tensor) -> Tensor: ...


def begin(ids: Tensor, images: Tensor, memory: Any) -> ChainState:
    """Chains at their seed images with nothing counted; raises `InputError` unless they are uint8 (n, c, h, w)."""
    check_images(images)
    zeros = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    path = ragged.empty(len(images), 3, dtype=torch.int32, device=images.device)
    return ChainState(ids, images, images, zeros, zeros, zeros, zeros, path, memory)


def advance(
    state: ChainState, candidates: Tensor, outputs: Outputs, accepted: Tensor, entries: Tensor, memory: Any
) -> ChainState:
    """The chains one query later: the accepted candidates are their images, `entries` (n, 3) of those on their path."""
    return replace(
        state,
        images=torch.where(accepted.view(-1, 1, 1, 1), candidates, state.images),
        step=state.step + 1,
        queries=state.queries + 1,
        ties=state.ties + outputs.tied,
        path=state.path.append(entries, accepted),
        memory=memory,
    )


def entry(step: Tensor, choice: Tensor, position: Tensor | None = None) -> Tensor:
    """Path entries int32 (n, 3): drawn at `step`, made by `choice`, taken to `position` (default: the whole way)."""
    position = torch.full_like(step, WHOLE) if position is None else position
    return torch.stack([step, choice, position.to(step.dtype)], dim=-1).int()


def replay(kernel: Kernel, seed: int, ids: Tensor, images: Tensor, paths: Sequence[Tensor]) -> Tensor:
    """The images that accepted paths lead to, uint8 (n, c, h, w): every trigger can be made again from its seed.

    `paths[i]` is (length, 3): step, choice and position of each accepted candidate, as in `ChainState.path`.
    """
    current = images.clone()
    for row, path in enumerate(paths):
        here = slice(row, row + 1)
        for accepted in path.to(torch.int64):
            current[here] = kernel.remake(seed, ids[here], images[here], current[here], accepted[None])
    return current
