"""The boundary search: find a way that crosses a decision boundary, then ask where the two models' zeros lie on it.

Deviations live in the thin strip between the two models' boundaries. On a way from an image of one class to an image of
another, both margins of the first class change sign, and the strip is reached in a few questions by interpolation
(`bracket`). Ways lead to the nearest reference images of other classes, or, where there are none left, to a candidate
of a few mutations in a row that both models call something else. Where the strip is closed (the models cross at one
place, or a quantised model ties), faint noise over the whole way opens it anew for two questions; see METHODS.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from dflare import bracket, columns
from dflare.bracket import Bracket
from dflare.chain import ChainState, StepInfo, advance, begin, entry
from dflare.classifiers import Outputs
from dflare.crossing import WHOLE, between
from dflare.mutations import Mutation, mutate
from dflare.random import Draws, Purpose
from dflare.references import References
from dflare.walk import Hold, anywhere

NEAREST = 32
"""References tried for a seed."""

STRIDE = 6
"""Mutations in a row, at most; 1 to this many are drawn."""

PROBES = 8
"""Questions on a new way before it is given up."""

TIED = 2
"""Ties seen on a new way before it is given up: the compressed model does not resolve the strip."""

AGAIN = 4
"""Questions on a way under noise."""

NOISES = 3
"""How often a way is tried again under new noise."""

SIGMA = 4.0
"""Of the noise, in grey levels: moves the margins by little and draws the difference of the models anew."""


WIDE = WHOLE // 64
"""Slopes are taken from brackets at least so wide; across a narrower one the grey levels are felt."""

FLATTEST = 1e-9
"""Smallest slope, margin a position."""


@dataclass(frozen=True)
class Memory:
    """What n boundary searches remember beside their images."""

    label: Tensor  # (n,) int64, what both models call the current image
    home: Tensor  # (n, 2) float64, both models' margins of it there
    near: Tensor  # (n, NEAREST) int64, references by distance
    left: Tensor  # (n,) int64, how many of them there are
    used: Tensor  # (n,) int64, how many were tried
    on_way: Tensor  # (n,) bool, whether a way is being asked
    far: Tensor  # (n, c, h, w) uint8, its end
    choice: Tensor  # (n,) int64, what made the end
    opened: Tensor  # (n,) int64, the step in which it was made
    tied: Tensor  # (n,) int64, ties seen on the way since the noise was drawn
    noise: Tensor  # (n,) int64, the step whose draws the noise comes from; 0 for none
    noises: Tensor  # (n,) int64, how often noise was tried on this way
    slope: Tensor  # (n, 2) float64 > 0, what the margins lose a position
    way: Bracket


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
        label, n = outputs.labels[0], len(images)
        zeros, home = torch.zeros_like(ids), outputs.margins_of(label)
        near, left = zeros[:, None].expand(-1, NEAREST).contiguous(), zeros
        if self.references is not None:
            ranked, left = self.references.nearest(images, label, NEAREST)
            near = torch.cat([ranked, near], dim=1)[:, :NEAREST]
        memory = Memory(
            label=label,
            home=home,
            near=near,
            left=left,
            used=zeros,
            on_way=zeros > 0,
            far=images,
            choice=zeros,
            opened=zeros,
            tied=zeros,
            noise=zeros,
            noises=zeros,
            slope=torch.ones_like(home),
            way=bracket.at(zeros, 2),
        )
        everyone = torch.ones(n, dtype=torch.bool, device=images.device)
        return begin(ids, images, self._next_reference(memory, zeros, everyone))

    def propose(self, seed: int, state: ChainState) -> tuple[Tensor, Tensor]:
        """The next position on a way, or the end of a new one."""
        memory, choice = state.memory, state.memory.choice.clone()
        images = state.images.clone()
        ways, others = (rows.nonzero().squeeze(-1) for rows in (memory.on_way, ~memory.on_way))
        if len(ways):
            images[ways] = self._on_way(seed, state, ways)
        if len(others):
            step = state.step[others] + 1
            choice[others] = self._choose(seed, state, others)
            images[others] = self._end(seed, state.seed[others], images[others], step, choice[others])
        return self.hold(state.origin, images), choice

    def update(
        self, state: ChainState, candidates: Tensor, choice: Tensor, outputs: Outputs
    ) -> tuple[ChainState, StepInfo]:
        """Narrow the ways, leave those that are spent, open those that candidates have found."""
        memory, deviates, step = state.memory, outputs.deviates, state.step + 1
        margins = outputs.margins_of(memory.label)
        position, noisy = bracket.target(memory.way), memory.on_way & (memory.noise > 0)
        crossed = ~memory.on_way & (margins < 0).all(-1)
        better = ~memory.on_way & ~crossed & (margins.amin(-1) <= memory.home.amin(-1)) & (margins > 0).all(-1)
        accepted = deviates | better
        after = self._further(memory, position, margins, step)
        after = _opened(after, crossed & ~deviates, candidates, choice, step, margins)
        after = replace(after, home=torch.where(better[:, None], margins, memory.home))
        tried = ~memory.on_way & (choice > len(self.mutations))
        after = replace(after, used=after.used + tried)
        ending = accepted & memory.on_way
        way = entry(memory.opened, memory.choice, position)
        whole = entry(step, choice)
        entries = torch.where(memory.on_way[:, None], way, whole)
        faint = entry(memory.noise, torch.full_like(choice, len(self.mutations)))
        state = replace(state, path=state.path.append(way, ending & noisy))
        moved = advance(state, candidates, outputs, accepted, torch.where(noisy[:, None], faint, entries), after)
        return moved, StepInfo(candidates, choice, outputs, accepted, deviates)

    def remake(self, seed: int, ids: Tensor, origin: Tensor, images: Tensor, entries: Tensor) -> Tensor:
        """The end of the way again, and its position; or the noise."""
        step, choice, position = entries.unbind(-1)
        noisy = choice == len(self.mutations)
        ends = self._end(seed, ids, images, step, torch.where(noisy, 0, choice))
        made = self.hold(origin, between(images, self.hold(origin, ends), position))
        return torch.where(noisy.view(-1, 1, 1, 1), self.hold(origin, _noise(images, seed, ids, step)), made)

    def _on_way(self, seed: int, state: ChainState, rows: Tensor) -> Tensor:
        """Images at the positions to ask next, for some of the chains."""
        memory, ids = columns.take(state.memory, rows), state.seed[rows]
        images = between(state.images[rows], memory.far, bracket.target(memory.way))
        noisy = (memory.noise > 0).nonzero().squeeze(-1)
        if len(noisy):
            held = self.hold(state.origin[rows[noisy]], images[noisy])
            images[noisy] = _noise(held, seed, ids[noisy], memory.noise[noisy])
        return images

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

    def _further(self, memory: Memory, position: Tensor, margins: Tensor, step: Tensor) -> Memory:
        """Ways after an answer, and what is next where a way is spent."""
        noisy, first = memory.noise > 0, memory.way.probes == 0
        way = bracket.told(memory.way, position, margins)
        way = _where(noisy & first, bracket.around(position, margins, memory.slope), way)
        tied = memory.tied + ((margins == 0).any(-1) & ~(noisy & first))
        wide = ~noisy & (way.high - way.low >= WIDE)
        slope = torch.where(wide[:, None], _slope(way), memory.slope)
        spent = (way.probes >= PROBES) | (way.high - way.low < 2) | (tied >= TIED)
        spent = torch.where(noisy, (way.probes >= AGAIN) | (tied > 0), spent) & memory.on_way
        after = replace(memory, way=_where(memory.on_way, way, memory.way), tied=tied, slope=slope)
        again = spent & (memory.noises < NOISES)
        after = replace(
            after,
            way=_where(again, bracket.at(bracket.target(way), 2), after.way),
            noise=torch.where(again, step + 1, memory.noise),
            noises=memory.noises + again,
            tied=torch.where(again, 0, after.tied),
            on_way=memory.on_way & (again | ~spent),
        )
        return self._next_reference(after, step, spent & ~again)

    def _next_reference(self, memory: Memory, step: Tensor, rows: Tensor) -> Memory:
        """Ways to the next reference, where there is one; its answers are known, so nothing is asked of its end."""
        rows = rows & (memory.used < memory.left)
        if self.references is None or self.hold is not anywhere or not bool(rows.any()):
            return memory
        number = memory.near.gather(1, memory.used.clamp(max=NEAREST - 1)[:, None]).squeeze(-1)
        margins = self.references.outputs.take(number).margins_of(memory.label)
        opened = _opened(
            memory, rows, self.references.images[number], number + len(self.mutations) + 1, step + 1, margins
        )
        return replace(opened, used=memory.used + rows)


def _opened(memory: Memory, rows: Tensor, far: Tensor, choice: Tensor, step: Tensor, margins: Tensor) -> Memory:
    """The rows on new ways to `far` images, where the margins (n, 2) are known."""
    way = bracket.opened(memory.home, margins)
    return replace(
        memory,
        on_way=memory.on_way | rows,
        far=torch.where(rows.view(-1, 1, 1, 1), far, memory.far),
        choice=torch.where(rows, choice, memory.choice),
        opened=torch.where(rows, step, memory.opened),
        tied=torch.where(rows, 0, memory.tied),
        noise=torch.where(rows, 0, memory.noise),
        noises=torch.where(rows, 0, memory.noises),
        slope=torch.where(rows[:, None], _slope(way), memory.slope),
        way=_where(rows, way, memory.way),
    )


def _where(rows: Tensor, first: Bracket, second: Bracket) -> Bracket:
    """The first's brackets in these rows, the second's in the others."""
    return Bracket(
        **{
            f.name: torch.where(rows.view(-1, *[1] * (a.ndim - 1)), a, getattr(second, f.name))
            for f in fields(first)
            for a in [getattr(first, f.name)]
        }
    )


def _slope(way: Bracket) -> Tensor:
    """What the margins lose a position between the ends, (n, 2), not less than next to nothing."""
    return ((way.at_low - way.at_high) / (way.high - way.low).clamp(min=1)[:, None]).clamp(min=FLATTEST)


def _noise(images: Tensor, seed: int, ids: Tensor, step: Tensor) -> Tensor:
    """Images with the faint noise of a step over them, uint8."""
    noise = Draws.of(seed, ids, step).purpose(Purpose.NOISE).normal(*images.shape[1:])
    return (images + SIGMA * noise).round_().clamp_(0, 255).to(torch.uint8)
