"""The boundary search: find a way that crosses a decision boundary, then ask where the two models' zeros lie on it.

Deviations live in the thin strip between the two models' boundaries. On a way from an image of one class to an image of
another, both margins of the first class change sign, and the strip is reached in a few questions by interpolation
(`bracket`). Ways lead to the nearest reference images of other classes, or, where there are none left, to a candidate
of a few mutations in a row that both models call something else. Where the strip is closed (the models cross at one
place, or a quantised model ties), faint noise over the whole way opens it anew for two questions (docs/search.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dflare import columns, ways
from dflare.chain import ChainState, StepInfo, advance, begin, entry
from dflare.classifiers import Outputs
from dflare.crossing import between
from dflare.mutations import Mutation, mutate
from dflare.random import Draws, Purpose
from dflare.references import References
from dflare.walk import Hold, anywhere
from dflare.ways import Way

NEAREST = 32
"""References tried for a seed."""

STRIDE = 6
"""Mutations in a row, at most; 1 to this many are drawn."""


@dataclass(frozen=True)
class Memory:
    """What n boundary searches remember beside their images."""

    label: Tensor  # (n,) int64, what both models call the current image
    home: Tensor  # (n, 2) float64, both models' margins of it there
    near: Tensor  # (n, NEAREST) int64, references by distance
    left: Tensor  # (n,) int64, how many of them there are
    used: Tensor  # (n,) int64, how many were tried
    way: Way


@dataclass(frozen=True)
class Boundary:
    """Ways x interpolation x noise. `mutations` make ways where `references` are used up or None.

    Choices, in paths: below m = len(mutations), a row of mutations that starts with this one; m, noise; m + 1 + k, the
    way to reference k.
    """

    mutations: Sequence[Mutation]
    references: References | None = None
    hold: Hold = anywhere

    def init(self, seed: int, ids: Tensor, images: Tensor, outputs: Outputs) -> ChainState:
        """Chains at their seeds; where references are known, the way to the nearest lies open from the start."""
        label, n = outputs.shared_label, len(images)
        zeros, home = torch.zeros_like(ids), outputs.margins_of(label)
        near, left = zeros[:, None].expand(-1, NEAREST).contiguous(), zeros
        if self.references is not None:
            ranked, left = self.references.nearest(images, label, NEAREST)
            near = torch.cat([ranked, near], dim=1)[:, :NEAREST]
        memory = Memory(label, home, near, left, used=zeros, way=ways.nowhere(images))
        everyone = torch.ones(n, dtype=torch.bool, device=images.device)
        return begin(ids, images, self._next_reference(memory, zeros, everyone))

    def propose(self, seed: int, state: ChainState) -> tuple[Tensor, Tensor]:
        """The next position on a way, or the end of a new one."""
        way, choice, images = state.memory.way, state.memory.way.choice.clone(), state.images.clone()
        walking, others = (rows.nonzero().squeeze(-1) for rows in (way.open, ~way.open))
        if len(walking):
            here = columns.take(way, walking)
            ids, origin = state.seed[walking], state.origin[walking]
            images[walking] = ways.images_on(here, seed, ids, origin, images[walking], self.hold)
        if len(others):
            step = state.step[others] + 1
            choice[others] = self._choose(seed, state, others)
            images[others] = self._end(seed, state.seed[others], images[others], step, choice[others])
        return self.hold(state.origin, images), choice

    def update(
        self, state: ChainState, candidates: Tensor, choice: Tensor, outputs: Outputs
    ) -> tuple[ChainState, StepInfo]:
        """Narrow the ways, leave those that are spent, open those that candidates have found."""
        memory, way, deviates, step = state.memory, state.memory.way, outputs.deviates, state.step + 1
        margins = outputs.margins_of(memory.label)
        crossed = ~way.open & ~deviates & (margins < 0).all(-1)
        nearer = ~way.open & (margins > 0).all(-1) & (margins.amin(-1) <= memory.home.amin(-1))
        after, spent = ways.told(way, margins, step)
        after = ways.opened(after, crossed, candidates, choice, step, (memory.home, margins))
        tried = ~way.open & (choice > len(self.mutations))
        memory = replace(
            memory,
            home=torch.where(nearer[:, None], margins, memory.home),
            used=memory.used + tried,
            way=after,
        )
        memory = self._next_reference(memory, step, spent)
        accepted = deviates | nearer
        state, entries = self._entries(state, choice, accepted)
        moved = advance(state, candidates, outputs, accepted, entries, memory)
        return moved, StepInfo(candidates, choice, outputs, accepted, deviates)

    def remake(self, seed: int, ids: Tensor, origin: Tensor, images: Tensor, entries: Tensor) -> Tensor:
        """The end of the way again, and its position; or the noise."""
        step, choice, position = entries.unbind(-1)
        noisy = choice == len(self.mutations)
        ends = self._end(seed, ids, images, step, torch.where(noisy, 0, choice))
        made = self.hold(origin, between(images, self.hold(origin, ends), position))
        return torch.where(noisy.view(-1, 1, 1, 1), self.hold(origin, ways.under_noise(images, seed, ids, step)), made)

    def _entries(self, state: ChainState, choice: Tensor, accepted: Tensor) -> tuple[ChainState, Tensor]:
        """Path entries of what is accepted; where noise lies over a way, the way itself is entered before it."""
        way = state.memory.way
        here = entry(way.began, way.choice, way.position)
        noise = entry(way.noise, torch.full_like(choice, len(self.mutations)))
        state = replace(state, path=state.path.append(here, accepted & way.noisy))
        entries = torch.where(way.open[:, None], here, entry(state.step + 1, choice))
        return state, torch.where(way.noisy[:, None], noise, entries)

    def _choose(self, seed: int, state: ChainState, rows: Tensor) -> Tensor:
        """What makes the next end: a reference that was not tried, or the first of some mutations."""
        memory = state.memory
        draws = Draws.of(seed, state.seed[rows], state.step[rows] + 1).purpose(Purpose.SUBSTEP)
        mutations = draws.purpose(Purpose.PROPOSAL).integers(len(self.mutations))
        used, left = memory.used[rows], memory.left[rows]
        reference = memory.near[rows].gather(1, used.clamp(max=NEAREST - 1)[:, None]).squeeze(-1)
        return torch.where(used < left, len(self.mutations) + 1 + reference, mutations)

    def _end(self, seed: int, ids: Tensor, images: Tensor, step: Tensor, choice: Tensor) -> Tensor:
        """References as they are, or 1 to `STRIDE` mutations in a row of the images."""
        ends, m = images.clone(), len(self.mutations)
        known = (choice > m).nonzero().squeeze(-1)
        if len(known) and self.references is not None:
            ends[known] = self.references.images[choice[known] - m - 1]
        draws = Draws.of(seed, ids, step)
        length = draws.purpose(Purpose.STRIDE).integers(STRIDE) + 1
        for k in range(STRIDE):
            rows = ((choice < m) & (length > k)).nonzero().squeeze(-1)
            if len(rows):
                these = draws[rows].purpose(Purpose.SUBSTEP + k)
                drawn = these.purpose(Purpose.PROPOSAL).integers(m)
                ends[rows] = mutate(ends[rows], drawn, self.mutations, these)
        return ends

    def _next_reference(self, memory: Memory, step: Tensor, rows: Tensor) -> Memory:
        """Ways to the next reference, where there is one; its answers are known, so nothing is asked of its end."""
        rows = rows & (memory.used < memory.left)
        if self.references is None or self.hold is not anywhere or not bool(rows.any()):
            return memory
        number = memory.near.gather(1, memory.used.clamp(max=NEAREST - 1)[:, None]).squeeze(-1)
        margins = self.references.outputs.take(number).margins_of(memory.label)
        ends, choice = self.references.images[number], number + len(self.mutations) + 1
        way = ways.opened(memory.way, rows, ends, choice, step + 1, (memory.home, margins))
        return replace(memory, way=way, used=memory.used + rows)
