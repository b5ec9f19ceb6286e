"""Which other way to show two models images explains that they disagree, or that both err."""

from dataclasses import replace
from itertools import product

from torch import Tensor

from dflare.parity.class_order import usual_orders
from dflare.parity.explanation import Explanation
from dflare.parity.questions import Questions
from dflare.parity.ranking import APART, Way, apart, finalists, named_alike, worth
from dflare.parity.slips import channels_shown, differences, is_measured, usual_interfaces


def explanations(
    questions: Questions, counts: tuple[int, int] | None, labels: Tensor | None, sieve: int
) -> tuple[list[Explanation], list[Explanation], int]:
    """The best explanations on all images, best first, the same with other usual numbers, and the count of ways tried.

    `counts` are the classes that the two know now, None where that is not known. With labels (n,) the better
    explanation gives the better accuracies, without them more different answers: those are the sign that a model sees
    what it wants to see. Half of the questions that are left are kept for the best ways.
    """
    kept = questions.left - questions.left // 2
    questions.left -= kept
    ways = _ways(questions, counts, min(sieve, len(questions.images)))
    questions.left += kept
    if not all(ways):
        return [], [], sum(map(len, ways))
    places = finalists(ways, None if labels is None else labels[: len(ways[0][0].labels)])
    found = {place: _explanation(questions, ways[0][place[0]], ways[1][place[1]], labels) for place in places}
    best: dict[tuple[int, ...], tuple[float, tuple[int, int]]] = {}
    for place, one in found.items():
        if one is not None:
            key = tuple(one.changed)
            best[key] = max(best.get(key, (one.worth, place)), (one.worth, place))
    others = [other for _, place in sorted(best.values(), reverse=True) for other in named_alike(ways, place)]
    named = [
        _explanation(questions, ways[0][place[0]], ways[1][place[1]], labels)
        for place in dict.fromkeys(others)
        if place not in found
    ]
    best_first = sorted((one for one in found.values() if one), key=lambda one: -one.worth)
    return best_first, [one for one in named if one], sum(map(len, ways))


def _explanation(questions: Questions, first: Way, second: Way, labels: Tensor | None) -> Explanation | None:
    """What the pair says of all images when it is shown them in two ways; None where it does not."""
    new = (first.interface, second.interface)
    scores = [questions.scores(model, new[model], len(questions.images)) for model in (0, 1)]
    if scores[0] is None or scores[1] is None:
        return None
    asked = [way._replace(labels=one.argmax(-1)) for way, one in ((first, scores[0]), (second, scores[1]))]
    value = float(worth(asked[:1], asked[1:], labels)[0, 0]) - APART * apart(scores[0], scores[1])
    now = (questions.models[0].interface, questions.models[1].interface)
    return Explanation(now, new, (scores[0], scores[1]), value, first.own or second.own)


def informative(labels: Tensor, found: list[Explanation], present: list[Tensor]) -> bool:
    """Whether some model in some way knows the labels (n,) better than who always says the most frequent one."""
    chance = float(labels.bincount().max()) / len(labels)
    shares = [int((scores.argmax(-1) == labels).sum()) / len(labels) for scores in present]
    shares += [share for one in found for share in one.accuracy(labels)]
    return max(shares, default=0.0) > chance + 0.15


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
    for place, model in product(range(longest), (0, 1)):  # in turn, because the questions may not suffice
        if place >= len(interfaces[model]):
            continue
        now = models[model].interface
        orders = usual_orders(now.classes, counts[model], counts[1 - model]) if counts else [now.classes]
        for classes in orders:
            interface = replace(interfaces[model][place], classes=classes)
            scores = questions.scores(model, interface, sieve)
            if scores is not None:
                changes = len(differences(now, interface))
                own = changes > 0 and is_measured(interface, mean)
                ways[model].append(Way(interface, scores.argmax(-1), scores.shape[1], changes + own, own))
    return ways
