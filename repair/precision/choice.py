"""In which order tensors get more bits: by what it is worth, by size, or by chance."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence

Names = tuple[str, ...]
"""Tensors that are widened together."""

Loss = Callable[[frozenset[str]], float]
"""How far a model with these tensors widened is from its original; smaller is better."""

Affordable = Callable[[frozenset[str]], bool]
"""Whether a model with these tensors widened keeps within the budget."""

Choice = Callable[[list[Names], Loss, Affordable], Iterator[frozenset[str]]]
"""Groups of tensors, what they are worth and whether they can be paid for -> ever larger sets."""


def greedy(
    groups: Sequence[Names], loss: Loss, affordable: Affordable = lambda tensors: True, look: int = 8
) -> Iterator[frozenset[str]]:
    """Ever larger sets of tensors, each with the one group more that makes the loss least (forward selection).

    Every group is tried alone first: that is its responsibility. Later only the `look` groups that were worth most
    when they were last tried are tried again, so n groups cost n + look * n questions and not n^2 / 2. Groups that
    cannot be afforded are passed over and tried again later, because a model with more 16-bit tensors can be faster
    (fewer changes between kernels). A group is added also when it makes the loss worse, so that the frontier is
    complete. Ties go to the earlier group.
    """
    chosen: frozenset[str] = frozenset()
    last = dict.fromkeys(groups, 0.0)
    tried = len(groups)
    while last:
        order = sorted(last, key=lambda group: last[group])  # stable
        for part in (order[:tried], order[tried:]):
            losses = {group: loss(chosen | set(group)) for group in part if affordable(chosen | set(group))}
            if losses:
                break
        else:
            return
        last |= losses
        best = min(losses, key=lambda group: losses[group])
        del last[best]
        chosen, tried = chosen | set(best), look
        yield chosen


def in_order(groups: Sequence[Names], affordable: Affordable = lambda tensors: True) -> Iterator[frozenset[str]]:
    """Ever larger sets of tensors, group by group in this order, without those that cannot be afforded."""
    chosen: frozenset[str] = frozenset()
    for group in groups:
        if affordable(chosen | set(group)):
            chosen |= set(group)
            yield chosen


def by_size(groups: Sequence[Names], numbers: Mapping[str, int]) -> list[Names]:
    """The groups, those with most numbers an image first; equal ones stay in order."""
    return sorted(groups, key=lambda group: -sum(numbers[name] for name in group))


def by_chance(groups: Sequence[Names], seed: int) -> list[Names]:
    """The groups in an order that depends on the seed alone."""
    return random.Random(seed).sample(list(groups), len(groups))
