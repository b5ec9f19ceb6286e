"""Projected gradient ascent on the DIVA objective: the search for pairs whose insides are open.

Hao et al., "A Tale of Two Models: Constructing Evasive Attacks on Edge Models" (DIVA), MLSys 2022: raise
p_original[y] - c * p_compressed[y], y what both models call the seed, by steps along the gradient's signs inside an
L-infinity ball around the seed. Where the original is the one to leave y first, the objective leads away from the
deviation; chains of such seeds end exhausted.

Beyond the published code: images are whole grey levels in every step, and a chain that spent `STEPS` steps starts
again from a random image of the ball. The black box decides what deviates; what is differentiated may be a twin.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, floor

import torch
from torch import Tensor

from dflare.chain import ChainState, StepInfo, advance, begin, entry
from dflare.classifiers import Classifier, Outputs, check_scores, to_unit
from dflare.errors import InputError
from dflare.random import Draws, Purpose
from dflare.walk import Hold, anywhere

Gradients = Callable[[Tensor, Tensor], Tensor]
"""(images uint8 (n, c, h, w), labels (n,) int64) -> gradient of the objective by the pixels, float (n, c, h, w)"""

C = 1.0
"""Weight of the compressed model in the objective, as in the published code."""

EPS = 8
"""Radius of the ball in grey levels, as in the published code."""

STEPS = 20
"""Gradient steps from one start, as in the published code."""

_START = 0  # choice of a random start; label + 1 is the choice of a step
_REACH = 2.5  # radii that all steps add up to, so that any point of the ball can be reached (Madry et al., ICLR 2018)


@dataclass(frozen=True)
class Memory:
    """What n ascents remember beside their images."""

    label: Tensor  # (n,) int64, what the original calls the seed
    taken: Tensor  # (n,) int64, gradient steps since the last start


@dataclass(frozen=True)
class Gradient:
    """Ascent x starts: `STEPS` steps from the seed, then from random images of the ball, `STEPS` each.

    `eps` is the radius in whole grey levels. A step asks two questions of both models, the gradient at the image
    and the candidate that it leads to, and counts as 2 queries; a random start counts as 1. The last step of a chain
    may so exceed an odd budget by 1. Choices, in paths: 0 a random start, label + 1 a step. Paths can be replayed up
    to the rounding of gradients in batches of other sizes.
    """

    gradients: Gradients
    eps: int = EPS
    hold: Hold = anywhere

    def __post_init__(self) -> None:
        if self.eps < 1:
            raise InputError(f"the strategy gradient needs a ball of at least one grey level, got eps = {self.eps}")

    @property
    def step(self) -> int:
        """How far a step goes, in grey levels, rounded away from zero so that none is lost; 1 for the default ball."""
        return ceil(_REACH * self.eps / STEPS)

    def init(self, seed: int, ids: Tensor, images: Tensor, outputs: Outputs) -> ChainState:
        """Chains at their seeds, from which the first ascent starts."""
        return begin(ids, images, Memory(outputs.labels[0], torch.zeros_like(ids)))

    def propose(self, seed: int, state: ChainState) -> tuple[Tensor, Tensor]:
        """One step up the objective, or a new start; the differentiable models are asked here."""
        choice = torch.where(state.memory.taken < STEPS, state.memory.label + 1, _START)
        entries = entry(state.step + 1, choice).to(torch.int64)
        return self.remake(seed, state.seed, state.origin, state.images, entries), choice

    def update(
        self, state: ChainState, candidates: Tensor, choice: Tensor, outputs: Outputs
    ) -> tuple[ChainState, StepInfo]:
        """Go on from the candidates, whatever the models say."""
        everyone, stepped = torch.ones_like(outputs.deviates), choice != _START
        after = replace(state.memory, taken=torch.where(stepped, state.memory.taken + 1, 0))
        moved = advance(state, candidates, outputs, everyone, entry(state.step + 1, choice), after)
        moved = replace(moved, queries=moved.queries + stepped)  # the question for the gradient
        return moved, StepInfo(candidates, choice, outputs, everyone, outputs.deviates)

    def remake(self, seed: int, ids: Tensor, origin: Tensor, images: Tensor, entries: Tensor) -> Tensor:
        """The step or the start again."""
        step, choice, _ = entries.unbind(-1)
        moved = origin.to(torch.int16)
        starts, steps = ((choice == _START).nonzero().squeeze(-1), (choice != _START).nonzero().squeeze(-1))
        if len(starts):
            draws = Draws.of(seed, ids[starts], step[starts]).purpose(Purpose.FIRST)
            moved[starts] += (draws.integers(2 * self.eps + 1, *origin.shape[1:]) - self.eps).to(torch.int16)
        if len(steps):
            upward = self.gradients(images[steps], choice[steps] - 1).sign().to(torch.int16)
            moved[steps] = images[steps].to(torch.int16) + self.step * upward
        return self.hold(origin, self._projected(origin, moved))

    def _projected(self, origin: Tensor, moved: Tensor) -> Tensor:
        """The nearest image in the ball around the seed, uint8."""
        centre = origin.to(torch.int16)
        return moved.clamp(centre - self.eps, centre + self.eps).clamp(0, 255).to(torch.uint8)


def differentiable(original: Classifier, compressed: Classifier, c: float = C) -> Gradients:
    """Gradients of p_original[y] - c * p_compressed[y] by the pixels, from two differentiable classifiers.

    Probabilities are float64, so that their slopes do not vanish where a model is sure. When called, raises
    `InputError` for a model without gradients, and for gradients that are not numbers.
    """

    def gradients(images: Tensor, labels: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            pixels = to_unit(images).requires_grad_()
            chances = [
                _chance(model(pixels), labels, name)
                for name, model in (("original", original), ("compressed", compressed))
            ]
            (slope,) = torch.autograd.grad((chances[0] - c * chances[1]).sum(), pixels)
        if bool(slope.isnan().any()):
            raise InputError("the strategy gradient needs gradients that are numbers, the two models gave NaN")
        return slope

    return gradients


def _chance(scores: Tensor, labels: Tensor, name: str) -> Tensor:
    """Probabilities of the labels, (n,) float64."""
    scores = check_scores(scores, len(labels), name)
    if not scores.requires_grad:
        raise InputError(f"the strategy gradient needs two differentiable models, the {name} one has no gradient")
    return scores.double().softmax(-1).gather(-1, labels.clone()[:, None]).squeeze(-1)


def radius(max_l_inf: float | None) -> int:
    """Radius of the ball in whole grey levels for a limit on [0, 1]; None sets no limit and gives the default."""
    return EPS if max_l_inf is None else floor(max_l_inf * 255 + 1e-9)
