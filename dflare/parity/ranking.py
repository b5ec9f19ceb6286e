"""Which of the ways to show two models images go best together."""

from typing import NamedTuple

import torch
from torch import Tensor

from dflare.models.interface import Interface
from dflare.parity.questions import diversity, kappa
from dflare.parity.slips import numbers_seen, preset

FINALISTS = 5
"""Ways to change one model, the other, and both, that are tried on all images."""

_GRAIN = 0.05  # of diversity: one answer more or less is no sign
APART = 0.1  # weight of probabilities that differ: between normalisations that give the same answers they decide
_EACH, _BOTH = 0.01, 0.06  # what an explanation must be better by for each setting, and for changing both models


class Way(NamedTuple):
    """A way to show one model images, and the classes that it then gives the sieve's images."""

    interface: Interface
    labels: Tensor  # (m,)
    classes: int
    changes: int  # settings, and one more for numbers that nobody has a name for
    own: bool  # whether they are the images' own

    @property
    def seen(self) -> tuple[object, ...]:
        """Equal for two models that see the same numbers and count their classes alike."""
        return *numbers_seen(self.interface, 3)[:-1], self.interface.classes


def finalists(ways: tuple[list[Way], list[Way]], labels: Tensor | None) -> list[tuple[int, int]]:
    """Places of the best ways to change only the original, only the compressed, and both, on the sieve's images.

    The best of each come first, because the questions may not suffice for all. Both alike and both anyhow are two
    groups: there are many more ways of the second kind.
    """
    together = worth(*ways, labels)
    original = torch.tensor([way.changes > 0 for way in ways[0]])[:, None]
    compressed = torch.tensor([way.changes > 0 for way in ways[1]])[None]
    seen = [[way.seen for way in some] for some in ways]
    alike = torch.tensor([[one == other for other in seen[1]] for one in seen[0]])
    both = original & compressed
    best: list[tuple[int, float, int]] = []
    for group in (original & ~compressed, ~original & compressed, both & alike, both & ~alike):
        values, places = together.where(group, -torch.inf).flatten().sort(descending=True, stable=True)
        few = places[values.isfinite()][:FINALISTS].tolist()
        best += [(rank, -float(values[rank]), place) for rank, place in enumerate(few)]
    return [divmod(place, len(ways[1])) for _, _, place in sorted(best)]


def named_alike(ways: tuple[list[Way], list[Way]], place: tuple[int, int]) -> list[tuple[int, int]]:
    """Places of the ways that differ from one only in that they take a mean and std which people have a name for."""
    chosen = [ways[model][place[model]] for model in (0, 1)]
    changed = [model for model in (0, 1) if chosen[model].changes]
    if all(not chosen[model].own and not preset(chosen[model].interface) for model in changed):
        return []
    named: list[dict[str, int]] = [{}, {}]
    for model in changed:
        for number, way in enumerate(ways[model]):
            name = preset(way.interface)
            if name and way.changes and rest(way.interface) == rest(chosen[model].interface):
                named[model][f"{name} {way.interface.std}"] = number
    if changed == [0, 1]:
        return [(named[0][name], named[1][name]) for name in named[0] if name in named[1]]
    return [(number, place[1]) if changed == [0] else (place[0], number) for number in named[changed[0]].values()]


def rest(interface: Interface) -> tuple[str | None, str | None, str | None]:
    """What an interface says beside numbers: channel order, layout and classes."""
    return interface.channels or "rgb", interface.layout, interface.classes


def worth(first: list[Way], second: list[Way], labels: Tensor | None) -> Tensor:
    """How well each of `first` goes with each of `second`, (a, b); -inf for unequal numbers of classes."""
    classes = max(way.classes for way in (*first, *second))
    tops = [torch.stack([way.labels for way in ways]) for ways in (first, second)]
    own = [
        (top == labels).float().mean(-1) if labels is not None else (diversity(top, classes) / _GRAIN).round() * _GRAIN
        for top in tops
    ]
    changes = [torch.tensor([float(way.changes) for way in ways]) for ways in (first, second)]
    value = kappa(tops[0], tops[1], classes) + own[0][:, None] + own[1][None]
    value -= _EACH * (changes[0][:, None] + changes[1][None])
    value -= _BOTH * ((changes[0] > 0)[:, None] & (changes[1] > 0)[None])
    counts = [torch.tensor([way.classes for way in ways]) for ways in (first, second)]
    return value.where(counts[0][:, None] == counts[1][None], -torch.inf)


def apart(first: Tensor, second: Tensor) -> float:
    """Mean total variation distance of two models' probabilities, in [0, 1], from scores (n, classes); 0 for unlike."""
    if first.shape != second.shape:
        return 0.0
    return float((first.softmax(-1) - second.softmax(-1)).abs().sum(-1).mean()) / 2
