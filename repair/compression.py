"""Compression as projection: a compressed weight is a fixed point of its projection.

While a model is repaired it computes with projected weights, so whatever the optimiser does, what the network
uses is compressed. `check_plan` proves it on the weights of a reopened file.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dflare.classifiers import Classifier
from dflare.models.shown import Model


class Projection(Protocol):
    """A map from any weight to the nearest compressed one, idempotent, gradients straight through."""

    def __call__(self, weight: Tensor) -> Tensor: ...


Plan = Mapping[str, Projection]
"""Parameter name -> what "compressed" means for it. Parameters that are not named are free."""


class Pruned(nn.Module):
    """Keep the weights where the mask (same shape as the weight, bool) is true, the others are zero."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


class Quantized(nn.Module):
    """Round to integers in [low, high] on a fixed grid: weight = (integer - zero_point) * scale.

    `scale` and `zero_point` broadcast against the weight (per tensor or per channel). Rounding is half to even and
    integers are clamped, never wrapped. Gradients pass straight through (Bengio et al., 2013), and are zero where
    the integer is clamped, so that a latent weight does not drift away beyond the grid.
    """

    def __init__(self, scale: Tensor, zero_point: Tensor, low: int, high: int) -> None:
        super().__init__()
        self.scale: Tensor
        self.zero_point: Tensor
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)
        self.low, self.high = low, high

    def integers(self, weight: Tensor) -> Tensor:
        """The integers that stand for the weight, float tensor of whole numbers, same shape."""
        return ((weight / self.scale).round() + self.zero_point).clamp(self.low, self.high)

    def forward(self, weight: Tensor) -> Tensor:
        inside = weight.clamp(
            (self.low - self.zero_point) * self.scale,  # differentiable clamp: no gradient outside the grid
            (self.high - self.zero_point) * self.scale,
        )
        rounded = (self.integers(weight) - self.zero_point) * self.scale
        return inside + (rounded - inside).detach()


class Compressed(nn.Module):
    """A model that computes with the projections of its latent weights.

    The model handed in is used, not copied: its parameters are the latent weights that an optimiser moves. `shown`
    makes a classifier of images in [0, 1] from a model that takes something else.
    """

    def __init__(self, model: nn.Module, plan: Plan, shown: Callable[[Model], Classifier] | None = None) -> None:
        super().__init__()
        self.model, self.names = model, list(plan)
        self.projections = nn.ModuleList([plan[name] for name in self.names])  # type: ignore[misc]
        self._answered = self._answer if shown is None else shown(self._answer)

    def weights(self) -> dict[str, Tensor]:
        """The projected weights by parameter name; every other parameter as it is.

        A projection that follows others (a grid whose scale is trained) is given what those are projected to.
        """
        values: dict[str, Tensor] = dict(self.model.named_parameters())
        plan = dict(zip(self.names, self.projections, strict=True))
        for name in sorted(plan, key=lambda name: bool(followed_by(plan[name]))):  # what is followed comes first
            values[name] = plan[name](values[name], *(values[other] for other in followed_by(plan[name])))
        return values

    def forward(self, images: Tensor) -> Tensor:
        return self._answered(images)

    def _answer(self, values: Tensor) -> Tensor:
        return functional_call(self.model, self.weights(), values)


def followed_by(projection: object) -> tuple[str, ...]:
    """The parameters behind whose projections one takes its own."""
    found: tuple[str, ...] = getattr(projection, "follows", ())
    return found


def prune_by_magnitude(model: nn.Module, sparsity: float) -> Plan:
    """The plan that keeps the largest (1 - sparsity) of every weight of two or more dimensions, by magnitude.

    Tensor by tensor, as in Han et al. (2015). Raises `ValueError` unless 0 <= sparsity < 1.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
    plan: dict[str, Projection] = {}
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            removed = round(sparsity * weight.numel())
            order = weight.detach().abs().flatten().argsort()
            mask = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
            mask[order[:removed]] = False
            plan[name] = Pruned(mask.view(weight.shape))
    return plan


def zeros_stay_zero(model: nn.Module) -> Plan:
    """The plan of a pruned model as found: every weight of two or more dimensions keeps the zeros that it has."""
    return {
        name: Pruned(weight.detach() != 0)
        for name, weight in model.named_parameters()
        if weight.ndim > 1 and bool((weight == 0).any())
    }


def check_plan(weights: Mapping[str, Tensor], plan: Plan) -> None:
    """Raise `ValueError` unless every planned weight is a fixed point of its projection.

    Exactly, so that a zero is a zero; on grids, whose numbers are products, to float32 rounding.
    """
    for name, projection in plan.items():
        weight = weights[name].detach()
        gap = (projection(weight) - weight).abs().max().item()
        rounding = 1e-6 * weight.abs().max().item() if isinstance(projection, Quantized) else 0.0
        if not gap <= rounding:
            kind = type(projection).__name__.lower()
            raise ValueError(f"{name} is no longer compressed: being {kind} would move it by up to {gap:.3g}")
