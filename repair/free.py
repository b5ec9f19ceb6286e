"""What a repair may change: which weights are free, by name of a rule; all others are frozen.

A rule is a name, a name with a number, or several of these: `last`, `responsible:4`, `bias+limits`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from dflare.errors import InputError
from repair.compression import Compressed
from repair.data import Examples
from repair.last_layer import last_layer
from repair.losses import imitation
from repair.trainable import Scales, Trainable

BATCH = 256
"""Triggers a backward pass of the ranking; it bounds memory and changes no ranking but by rounding."""


@dataclass(frozen=True)
class Rule:
    """Who names the free weights, given the model, the triggers and the number behind the colon."""

    choose: Callable[[Trainable, Examples, int], list[str]]
    counted: bool = False  # whether there is a number
    scales: Scales = Scales.fixed  # what the file must be opened for


def freeze(trainable: Trainable, names: Iterable[str]) -> None:
    """Let only these of the model's weights have a gradient; raises `ValueError` for a name that it does not have."""
    wanted, known = set(names), dict(trainable.module.named_parameters())
    if wanted - set(known):
        raise ValueError(f"free weights must be some of {sorted(known)}, got {sorted(wanted - set(known))}")
    for name, weight in known.items():
        weight.requires_grad_(name in wanted)


def choose_free(trainable: Trainable, rule: str, triggers: Examples) -> list[str]:
    """The weights that a rule sets free, by parameter name and in the module's order; those frozen already stay so.

    The same model, rule and triggers give the same names. Raises `InputError` for an unknown rule and for one that
    frees nothing in this model.
    """
    chosen = {name for part, count in read_rule(rule) for name in FREE[part].choose(trainable, triggers, count)}
    free = [name for name, _ in trainable.module.named_parameters() if name in chosen]
    if not free:
        raise InputError(f"free={rule} of the repair's recipe names no weight of this model; set free to all")
    return free


def scales_of(rule: str) -> Scales:
    """Which scales a file must be opened for, so that a rule can free them."""
    asked = {FREE[name].scales for name, _ in read_rule(rule)}
    return next((which for which in (Scales.all, Scales.limits) if which in asked), Scales.fixed)


def read_rule(rule: str) -> list[tuple[str, int]]:
    """Names and numbers of a rule's parts, 0 where one has none; raises `InputError` for another one."""
    return [_read_part(part) for part in rule.split("+")]


def _read_part(rule: str) -> tuple[str, int]:
    name, colon, number = rule.partition(":")
    known = [f"{key}:k" if entry.counted else key for key, entry in FREE.items()]
    if name not in FREE or bool(colon) != FREE[name].counted:
        raise InputError(
            f"free must be one of {', '.join(known)} with a number for k, or several with + between them, got {rule!r}"
        )
    if not colon:
        return name, 0
    if not number.isdecimal() or int(number) < 1:
        raise InputError(f"free={name}:k must have a whole number of at least 1 for k, got {rule!r}")
    return name, int(number)


def by_gradient(trainable: Trainable, triggers: Examples) -> list[str]:
    """The weights by how much a repair would move the loss with them, greatest first; equal ones in module order.

    Ranked by the sum of |gradient| of the imitation loss over all triggers: what the loss falls by, to first order,
    when every number of the tensor takes one step of the same length, as under Adam.
    """
    names = _movable(trainable)
    latent = dict(trainable.module.named_parameters())
    student = Compressed(trainable.module, trainable.plan, trainable.shown)
    totals = [torch.zeros_like(latent[name]) for name in names]
    for start in range(0, len(triggers), BATCH):
        batch = triggers.batch(slice(start, start + BATCH), is_trigger=True)
        loss = imitation(student(batch.images).float(), batch)["triggers"] * len(batch.images)
        slopes = torch.autograd.grad(loss, [latent[name] for name in names], materialize_grads=True)
        totals = [total + slope for total, slope in zip(totals, slopes, strict=True)]
    weight = {name: float(total.abs().double().sum()) for name, total in zip(names, totals, strict=True)}
    return sorted(names, key=lambda name: -weight[name])


def _movable(trainable: Trainable) -> list[str]:
    """The weights that a gradient reaches; scales are none."""
    found = [name for name, weight in trainable.module.named_parameters() if weight.requires_grad]
    return [name for name in found if name not in trainable.scales]


FREE: dict[str, Rule] = {
    "all": Rule(lambda trainable, triggers, count: _movable(trainable)),
    "last": Rule(lambda trainable, triggers, count: last_layer(trainable, triggers.images)),
    "bias": Rule(
        lambda trainable, triggers, count: [
            name for name in _movable(trainable) if trainable.module.get_parameter(name).ndim <= 1
        ]
    ),
    "responsible": Rule(lambda trainable, triggers, count: by_gradient(trainable, triggers)[:count], counted=True),
    "scales": Rule(lambda trainable, triggers, count: list(trainable.scales), scales=Scales.all),
    "limits": Rule(lambda trainable, triggers, count: list(trainable.limits), scales=Scales.limits),
}
"""Name -> rule. `bias`: biases and the scales of normalisations; `responsible:k`: the k first of `by_gradient`;
`scales`: those of quantised weights and activations; `limits`: those of activations, where a fixed zero point makes the
scale the clipping limit."""
