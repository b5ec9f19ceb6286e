"""Learned rounding (AdaRound): for each weight on a grid, whether the integer below or the one above stands for it.

M. Nagel et al., "Up or down? Adaptive rounding for post-training quantization" (ICML 2020).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from dflare.errors import InputError
from repair.compression import Compressed, Quantized
from repair.integers.scales import Rescaled
from repair.module import Batch, Loss
from repair.trainable import Trainable

HIGH, LOW = 1.1, -0.1
"""Ends to which the sigmoid is stretched before it is cut to [0, 1], zeta and gamma of equation 23."""

STRENGTH = 1e-5
"""Weight of the penalty on roundings in between; theirs is 0.01, beside the summed error of one layer's outputs."""

WARM, FIRST, LAST = 0.2, 20.0, 2.0
"""Share of the steps without a penalty, and its exponent beta at the first step after them and at the last one."""

NUDGE = 0.01
"""Steps of the grid that a weight is moved down its slope, so that it lies between two integers."""

BATCHES = 8
"""Batches of the training that tell the slope."""


class Rounded(nn.Module):
    """A grid on which a weight is rounded down or up, as a latent V of its shape says.

    integer = floor(weight / scale) + h(V), h(V) = min(1, max(0, sigmoid(V) (zeta - gamma) + gamma)) (equations 22 and
    23). Where a gradient is asked for h is as it is, in between; anywhere else, so also in what is written, it is 0
    below a half and else 1. On a grid that is trained the integer below is that of its current scale.
    """

    def __init__(self, grid: Quantized, weight: Tensor) -> None:
        super().__init__()
        self.grid = grid
        self.follows: tuple[str, ...] = grid.follows if isinstance(grid, Rescaled) else ()
        self.weight: Tensor
        self.register_buffer("weight", weight.detach().clone())

    def start(self) -> Tensor:
        """The latent at which h is the share of a step that the weight lies above the integer below."""
        steps = self.weight / self.grid.scale
        above = (steps - steps.floor()).clamp(NUDGE, 1 - NUDGE)  # at an end the cut has no gradient
        return torch.logit((above - LOW) / (HIGH - LOW))

    def forward(self, latent: Tensor, *scales: Tensor) -> Tensor:
        grid = self.grid.grid(*scales) if scales and isinstance(self.grid, Rescaled) else self.grid
        up = rectified(latent)
        if not torch.is_grad_enabled():
            up = (up >= 0.5).to(up.dtype)
        whole = (self.weight / grid.scale).floor().detach() + grid.zero_point + up
        return (whole.clamp(grid.low, grid.high) - grid.zero_point) * grid.scale


class Added(nn.ModuleList):
    """The sum of several terms of a student."""

    def forward(self, student: nn.Module) -> Tensor:
        return torch.stack([term(student) for term in self]).sum()


def added(*terms: nn.Module | None) -> nn.Module | None:
    """The sum of those terms that there are; None for none, and a single one as it is."""
    present = [term for term in terms if term is not None]
    return Added(present) if len(present) > 1 else next(iter(present), None)


class Undecided(nn.Module):
    """The penalty on roundings that are neither up nor down: strength * sum of 1 - |2 h(V) - 1|^beta (equation 24).

    Beta falls over the training, so that at first roundings are only kept from staying half-way and are decided at
    the end. It counts its calls, one a step, and the count is a part of checkpoints.
    """

    def __init__(self, names: Iterable[str], steps: int, strength: float = STRENGTH) -> None:
        super().__init__()
        self.names, self.steps, self.strength = list(names), steps, strength
        self.step: Tensor
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, student: Compressed) -> Tensor:
        done = (int(self.step) / max(1, self.steps) - WARM) / (1 - WARM)
        self.step += 1
        latent = dict(student.model.named_parameters())
        if done < 0:
            return latent[self.names[0]].new_zeros(())
        beta = LAST + (FIRST - LAST) * max(0.0, 1 - done)
        undecided = [1 - (2 * rectified(latent[name]) - 1).abs().pow(beta) for name in self.names]
        return self.strength * torch.stack([each.sum() for each in undecided]).sum()


def rectified(latent: Tensor) -> Tensor:
    """The rectified sigmoid h of C. Louizos, M. Welling and D. P. Kingma (ICLR 2018), same shape."""
    return (latent.sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1)


def learn_rounding(
    trainable: Trainable, names: Iterable[str], loss: Loss, batches: Callable[[int], Batch], steps: int
) -> tuple[Trainable, nn.Module]:
    """The model with latents of roundings in place of those named weights that are matrices or kernels on grids.

    And the penalty of a training of so many steps. A stored integer says no more which way it was rounded, so its
    weight is taken to lie `NUDGE` steps from it on the side to which the loss falls, over the first `BATCHES` batches
    of the training: it may become the neighbour there, and as it is stays what it was. The module's parameters are
    overwritten; nothing is rounded otherwise before the training moves them. Raises `InputError` where no such weight
    is named.
    """
    student = Compressed(trainable.module, trainable.plan, trainable.shown)
    latent = dict(trainable.module.named_parameters())
    grids = {name: trainable.plan.get(name) for name in names if latent[name].ndim > 1}
    kept = {name: grid for name, grid in grids.items() if isinstance(grid, Quantized)}
    if not kept:
        raise InputError("rounding=learned of the repair's recipe needs free weights on grids of integers, found none")
    slopes = _slopes(student, {name: latent[name] for name in kept}, loss, batches)
    rounded = {}
    with torch.no_grad():
        for name, grid in kept.items():
            side = NUDGE * grid.scale * slopes[name].sign()
            rounded[name] = Rounded(grid, trainable.plan[name](latent[name]) - side)
            latent[name].copy_(rounded[name].start())
    return replace(trainable, plan={**trainable.plan, **rounded}), Undecided(kept, steps)


def round_to_nearest(
    trainable: Trainable, names: Iterable[str], loss: Loss, batches: Callable[[int], Batch], steps: int
) -> tuple[Trainable, None]:
    """The model as it is, whose weights move freely and are rounded to the nearest integer, and no penalty."""
    return trainable, None


ROUNDINGS: dict[str, Callable[..., tuple[Trainable, nn.Module | None]]] = {
    "nearest": round_to_nearest,
    "learned": learn_rounding,
}
"""Name -> how a training decides the integers of its weights."""


def _slopes(
    student: Compressed, latent: Mapping[str, Tensor], loss: Loss, batches: Callable[[int], Batch]
) -> dict[str, Tensor]:
    """The gradient of the loss by these weights, summed over the first batches."""
    totals = {name: torch.zeros_like(weight) for name, weight in latent.items()}
    for number in range(BATCHES):
        batch = batches(number)
        cost = torch.stack(list(loss(student(batch.images).float(), batch).values())).sum()
        found = torch.autograd.grad(cost, list(latent.values()), materialize_grads=True)
        totals = {name: total + one for (name, total), one in zip(totals.items(), found, strict=True)}
    return totals
