"""Which of the ways to show a pair images that its answers cannot tell apart are named to a person."""

from torch import Tensor

from dflare.parity.explanation import Explanation
from dflare.parity.questions import agreed, surely_better
from dflare.parity.ranking import rest
from dflare.parity.slips import HALF, PRESETS

_WORSE = 2.58
"""Standard normal quantile of 1 %, beyond which a way is taken as worse than the best of some ten."""


def choices(best: Explanation, found: list[Explanation], labels: Tensor | None, least: float) -> list[Explanation]:
    """The way to advise, then those with other usual numbers that are not surely worse, by how usual they are.

    The images' own mean and std, and different ones for the two models, give way to numbers that have a name, or to a
    range without any, wherever those are not surely worse. `least` is the agreement that all of them are to have.
    """
    rivals = [
        one
        for one in found
        if one.changed == best.changed and _rest(one) == _rest(best) and one.agreement >= least
        and not _worse(one, best, labels)
    ]  # fmt: skip
    named = sorted((one for one in rivals if _name(one)), key=lambda one: PRESETS.index(_name(one)))
    if best.own or len(best.names) > 1:
        plain = [one for one in rivals if not one.own and one.names <= {"", HALF} and len(one.names) == 1]
        if not plain and not named:
            return [best]
        best = (plain or named)[0]
    if not _name(best):
        return [best]
    if _name(best) == HALF:
        named = [best, *(one for one in named if one is not best)]
    return named


def advised(chosen: list[Explanation]) -> tuple[str, str]:
    """How the models are shown images in words, and what is to be set for it: "A, or B: …"."""
    names = list(dict.fromkeys(_name(one) for one in chosen))
    settings = ", or ".join(one.settings for one in chosen)
    if len(chosen) == 1:
        return chosen[0].words, settings
    settings += ": take what the model was trained with"
    if names[0] == HALF:
        return f"{chosen[0].words} (these images cannot tell it from other usual mean and std)", settings
    several = ", ".join(names[:-1]) + " or " + names[-1] if len(names) > 1 else names[0]
    return f"{chosen[0].called(several)} (these images cannot tell them apart)", settings


def _name(one: Explanation) -> str:
    """The one name of the mean and std that all changed models get, empty where there is none."""
    return next(iter(one.names)) if len(one.names) == 1 else ""


def _rest(one: Explanation) -> list[object]:
    return [rest(one.new[model]) for model in one.changed]


def _worse(one: Explanation, best: Explanation, labels: Tensor | None) -> bool:
    """Whether a way surely has less agreement, or less accuracy of what it changes, than the best."""
    pairs = [(agreed(best.scores), agreed(one.scores))]
    if labels is not None:
        pairs += [
            (best.scores[model].argmax(-1) == labels, one.scores[model].argmax(-1) == labels) for model in one.changed
        ]
    return any(surely_better(first, second, _WORSE) for first, second in pairs)
