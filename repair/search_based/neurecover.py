"""NeuRecover: weights that matter for what regressed and not for what improved are searched by a particle swarm.

S. Tokui, S. Tokumoto, A. Yoshii, F. Ishikawa, T. Nakagawa, K. Munakata and S. Kikuchi, "NeuRecover:
Regression-controlled repair of deep neural networks with training history" (SANER 2022). The history here is the pair,
or two rounds of the loop, so that no checkpoints of a training are needed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from repair.data import Examples
from repair.locating.pareto import impacts
from repair.locating.watched import Watched
from repair.search_based.arachne import LEAST
from repair.search_based.sample import Sample, Search, searched
from repair.search_based.single_weights import Place, SingleWeights, can_move
from repair.search_based.swarm import Best, Cost, Swarm, swarming
from repair.trainable import Trainable

CONSTRICTED = Swarm(particles=100, iterations=100, own=1.49618, common=1.49618, inertia=0.72984)
"""M. Clerc and J. Kennedy (2002): c1 = c2 = 4.1 / 2 times their constriction 0.72984, as in Arachne's first version,
whose swarm NeuRecover takes over."""

BOUND = 10.0
"""Standard deviations of its tensor by which a weight may move."""


@dataclass(frozen=True)
class History:
    """What the model was before: which images got worse and better since, and the weights of then.

    Since the original agrees with itself nothing improves from it to the compressed model: positives, which are to
    stay right, stand in for that.
    """

    regressed: Examples  # were right, are wrong
    improved: Examples  # were wrong, are right
    before: Mapping[str, Tensor]  # by parameter name; empty where none of these shapes are known: |dw| says nothing


def neurecover(
    trainable: Trainable,
    sample: Sample,
    iterations: int,
    generator: torch.Generator,
    history: History,
    places: Sequence[Place] | None = None,
    settings: Swarm = CONSTRICTED,
) -> Search:
    """A particle swarm over the values of the located weights. `places` as for `arachne`, otherwise `locate`."""
    moved = SingleWeights(trainable, locate(trainable, sample, history) if places is None else places)
    settings = replace(settings, iterations=iterations)

    def optimise(cost: Cost) -> Iterator[Best]:
        starts = moved.starts(settings.particles, generator)
        return swarming(cost, starts, -BOUND, BOUND, settings, generator)

    names = tuple(place.name for place in moved.places)
    return Search(names, searched(trainable, sample, moved, fitness, optimise))


def fitness(negative: Tensor, positive: Tensor) -> Tensor:
    """(fixed / |neg| + 1) / (loss_neg + 1) + (kept / |pos| + 1) / (loss_pos + 1), (candidates,), of margins.

    The loss is log(1 + exp(-margin)), mean over the images: cross-entropy with only the best other class.
    """
    terms = [
        ((margins > 0).float().mean(-1) + 1) / (F.softplus(-margins).mean(-1) + 1)
        for margins in (negative, positive)
        if margins.shape[-1]
    ]
    return torch.stack(terms).sum(0)


def locate(trainable: Trainable, sample: Sample, history: History) -> list[Place]:
    """(top-k fwd_reg and top-k grad_reg) and (top-k |dw| but not (top-k fwd_imp and top-k grad_imp)), layer by layer.

    grad is mean |d loss / d w| and fwd mean |o_i w_ij|, on what regressed and on what improved. How many weights k of a
    layer are looked at goes by its suspiciousness, the mean over its weights of fwd_reg / (fwd_reg + fwd_imp) |dw|: the
    k of all layers come to K, which is doubled until `LEAST` weights are found. Of the sets on the way the largest, as
    for a large K all weights matter for everything. Weights that the compression holds where they are take no part.
    """
    model = Watched(trainable)
    model.only_by_image(sample.positive.images)
    names = [layer.parameters[0] for layer in model.weighted]
    now = {name: model.parameters[name] for name in names}
    free = can_move(trainable, now)
    regressed, improved = (impacts(model, group) for group in (history.regressed, history.improved))
    layers = []
    for place, name in enumerate(names):
        moved = (now[name] - history.before[name]).abs().flatten() if name in history.before else None
        (grad, fwd), (other_grad, other_fwd) = ([kind[place] for kind in group] for group in (regressed, improved))
        layers.append(Evidence(name, grad * free[name].flatten(), fwd, other_grad, other_fwd, moved))
    total = sum(layer.suspicion for layer in layers)
    if not total > 0:
        return []
    best: dict[str, Tensor] = {}
    count, most = 1, sum(len(layer.grad) for layer in layers)
    while count < 2 * most and _size(best) < LEAST:
        chosen = {layer.name: layer.chosen(round(count * layer.suspicion / total)) for layer in layers}
        best = chosen if _size(chosen) > _size(best) else best
        count *= 2
    return [
        Place(name, tuple(index))
        for name, each in best.items()
        for index in each.view(now[name].shape).nonzero().tolist()
    ]


@dataclass(frozen=True)
class Evidence:
    """What is known of a layer's weights, (weights,) each."""

    name: str
    grad: Tensor  # on what regressed
    fwd: Tensor
    other_grad: Tensor  # on what improved
    other_fwd: Tensor
    moved: Tensor | None  # |dw|

    @property
    def suspicion(self) -> float:
        """Mean of fwd_reg / (fwd_reg + fwd_imp) |dw| over the weights."""
        share = self.fwd / (self.fwd + self.other_fwd + torch.finfo().tiny)
        return float((share if self.moved is None else share * self.moved).mean())

    def chosen(self, k: int) -> Tensor:
        """Which weights are candidates among the first k by each measure, (weights,) bool."""
        wanted = _top(self.fwd, k) & _top(self.grad, k)
        spared = _top(self.other_fwd, k) & _top(self.other_grad, k)
        return wanted & ~spared & (torch.ones_like(spared) if self.moved is None else _top(self.moved, k))


def _size(chosen: Mapping[str, Tensor]) -> int:
    return sum(int(each.sum()) for each in chosen.values())


def _top(values: Tensor, k: int) -> Tensor:
    """Which of the values (n,) are among the k greatest, and above 0."""
    found = torch.zeros(len(values), dtype=torch.bool)
    found[values.topk(min(k, len(values))).indices] = True
    return found & (values > 0)
