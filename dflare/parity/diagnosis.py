"""Which other way to show two models images explains that they disagree, or that both err."""

from dataclasses import replace
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from dflare.models.interface import Interface
from dflare.parity.class_order import usual_orders
from dflare.parity.explanation import Explanation
from dflare.parity.questions import Questions, diversity, kappa
from dflare.parity.slips import MOST, channels_shown, differences, is_measured, numbers_seen, usual_interfaces

SIEVE = 32
"""Images on which all ways are tried; fewer where the models are slow."""

FINALISTS = 5
"""Ways to change one model, the other, and both, that are tried on all images."""

_FEW, _LEAST = 4, 8  # images
_GRAIN = 0.05  # of diversity: one answer more or less is no sign
_APART = 0.1  # weight of probabilities that differ: between normalisations that give the same answers they decide
_EACH, _BOTH = 0.01, 0.06  # what an explanation must be better by for each setting, and for changing both models


class Way(NamedTuple):
    """A way to show one model images, and the classes that it then gives the sieve's images."""

    interface: Interface
    labels: Tensor  # (m,)
    classes: int
    changes: int  # settings, and one more for numbers that nobody has a name for

    @property
    def seen(self) -> tuple[object, ...]:
        """Equal for two models that see the same numbers and count their classes alike."""
        return *numbers_seen(self.interface, 3)[:-1], self.interface.classes


def explanations(
    questions: Questions, counts: tuple[int, int] | None, labels: Tensor | None, sieve: int = SIEVE
) -> tuple[list[Explanation], int]:
    """The best explanations on all images, best first, and how many ways were tried.

    `counts` are the classes that the two know now, None where that is not known. With labels (n,) the better
    explanation gives the better accuracies, without them more different answers: those are the sign that a model sees
    what it wants to see.
    """
    now = (questions.models[0].interface, questions.models[1].interface)
    ways = _ways(questions, counts, min(sieve, len(questions.images)))
    if not all(ways):
        return [], sum(map(len, ways))
    finalists = _finalists(ways, None if labels is None else labels[: len(ways[0][0].labels)])
    found = []
    for first, second in finalists:
        new = (ways[0][first].interface, ways[1][second].interface)
        scores = [questions.scores(model, new[model], len(questions.images)) for model in (0, 1)]
        if scores[0] is None or scores[1] is None:
            continue
        asked = [
            way._replace(labels=one.argmax(-1))
            for way, one in ((ways[0][first], scores[0]), (ways[1][second], scores[1]))
        ]
        worth = float(_worth(asked[:1], asked[1:], labels)[0, 0]) - _APART * _apart(scores[0], scores[1])
        found.append(Explanation(now, new, (scores[0], scores[1]), worth))
    return sorted(found, key=lambda one: -one.worth), sum(map(len, ways))


def informative(labels: Tensor, found: list[Explanation], present: list[Tensor]) -> bool:
    """Whether some model in some way knows the labels (n,) better than who always says the most frequent one."""
    chance = float(labels.bincount().max()) / len(labels)
    shares = [int((scores.argmax(-1) == labels).sum()) / len(labels) for scores in present]
    shares += [share for one in found for share in one.accuracy(labels)]
    return max(shares, default=0.0) > chance + 0.15


def sieve_size(questions: Questions) -> int:
    """On how many images all ways can be tried in half the time, judged by a few; 8 to `SIEVE`."""
    start = questions.clock()
    for model in (0, 1):
        questions.scores(model, questions.models[model].interface, _FEW)
    each = (questions.clock() - start) / _FEW
    return int(max(_LEAST, min(SIEVE, questions.seconds / 2 / (MOST * each + 1e-9))))


def _apart(first: Tensor, second: Tensor) -> float:
    """Mean total variation distance of two models' probabilities, in [0, 1], from scores (n, classes); 0 for unlike."""
    if first.shape != second.shape:
        return 0.0
    return float((first.softmax(-1) - second.softmax(-1)).abs().sum(-1).mean()) / 2


def _ways(questions: Questions, counts: tuple[int, int] | None, sieve: int) -> tuple[list[Way], list[Way]]:
    """All ways that work to show either model images, the present one first where it does."""
    images, models = questions.images, questions.models
    numbers = images.float() / 255
    mean, std = numbers.mean((0, 2, 3)).tolist(), numbers.std((0, 2, 3)).tolist()
    interfaces = []
    for model in (0, 1):
        now, other, takes = models[model].interface, models[1 - model].interface, models[model].takes
        enough = channels_shown(now, takes, images.shape[1]) == len(mean)
        interfaces.append(usual_interfaces(now, other, takes, images.shape[1], *((mean, std) if enough else ([], []))))
    ways: tuple[list[Way], list[Way]] = ([], [])
    longest = max(map(len, interfaces))
    for place, model in product(range(longest), (0, 1)):  # in turn, because the time may be over
        if place >= len(interfaces[model]):
            continue
        now = models[model].interface
        orders = usual_orders(now.classes, counts[model], counts[1 - model]) if counts else [now.classes]
        for classes in orders:
            interface = replace(interfaces[model][place], classes=classes)
            scores = questions.scores(model, interface, sieve)
            if scores is not None:
                changes = len(differences(now, interface)) + is_measured(interface, mean)
                ways[model].append(Way(interface, scores.argmax(-1), scores.shape[1], changes))
    return ways


def _finalists(ways: tuple[list[Way], list[Way]], labels: Tensor | None) -> list[tuple[int, int]]:
    """Places of the best ways to change only the original, only the compressed, and both, on the sieve's images.

    Both alike and both anyhow are two groups: there are many more ways of the second kind.
    """
    worth = _worth(*ways, labels)
    original = torch.tensor([way.changes > 0 for way in ways[0]])[:, None]
    compressed = torch.tensor([way.changes > 0 for way in ways[1]])[None]
    seen = [[way.seen for way in some] for some in ways]
    alike = torch.tensor([[one == other for other in seen[1]] for one in seen[0]])
    both = original & compressed
    best: list[tuple[int, int]] = []
    for group in (original & ~compressed, ~original & compressed, both & alike, both & ~alike):
        values, places = worth.where(group, -torch.inf).flatten().sort(descending=True, stable=True)
        best += [divmod(int(place), len(ways[1])) for place in places[values.isfinite()][:FINALISTS]]
    return best


def _worth(first: list[Way], second: list[Way], labels: Tensor | None) -> Tensor:
    """How well each of `first` goes with each of `second`, (a, b); -inf for unequal numbers of classes."""
    classes = max(way.classes for way in (*first, *second))
    tops = [torch.stack([way.labels for way in ways]) for ways in (first, second)]
    own = [
        (top == labels).float().mean(-1) if labels is not None else (diversity(top, classes) / _GRAIN).round() * _GRAIN
        for top in tops
    ]
    changes = [torch.tensor([float(way.changes) for way in ways]) for ways in (first, second)]
    worth = kappa(tops[0], tops[1], classes) + own[0][:, None] + own[1][None]
    worth -= _EACH * (changes[0][:, None] + changes[1][None])
    worth -= _BOTH * ((changes[0] > 0)[:, None] & (changes[1] > 0)[None])
    counts = [torch.tensor([way.classes for way in ways]) for ways in (first, second)]
    return worth.where(counts[0][:, None] == counts[1][None], -torch.inf)
