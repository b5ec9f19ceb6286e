"""Another way to show a pair images, and whether it is more than chance that the two agree so well then."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dflare.models.interface import Interface
from dflare.parity.questions import WHICH, agreed, diversity, kappa, surely_better
from dflare.parity.slips import differences, preset, words

SIGNIFICANT = 3.3
"""Standard normal quantile of 1 in 2,000: some hundred independent tries are made."""

_KAPPA = 0.3  # least agreement beyond chance that counts as one
_POORER = 0.02  # how much less various the answers of two models may be that both are shown otherwise
_CRUDER = 0.1  # and how much less than both at present and the labels, where there are labels
_VARIOUS = 0.8  # greatest share of one class among various ones


@dataclass(frozen=True)
class Explanation:
    """What the pair says of all images when one model or both are shown them in another way."""

    now: tuple[Interface, Interface]
    new: tuple[Interface, Interface]
    scores: tuple[Tensor, Tensor]  # (n, classes) each
    worth: float
    own: bool = False  # whether the images' own mean is subtracted

    @property
    def agreement(self) -> float:
        """Share of the images on which the pair then agrees."""
        return int(agreed(self.scores).sum()) / len(self.scores[0])

    @property
    def changed(self) -> list[int]:
        """Which of the two are shown in another way."""
        return [model for model in (0, 1) if differences(self.now[model], self.new[model])]

    @property
    def settings(self) -> str:
        """The settings that bring it about, as the command line takes them."""
        each = [differences(now, new) for now, new in zip(self.now, self.new, strict=True)]
        both = {
            name: value
            for name, value in each[0].items()
            if each[1].get(name) == value and _same(getattr(self.now[0], name), getattr(self.now[1], name))
        }
        groups = [("both", both), *zip(WHICH, [_without(one, both) for one in each], strict=True)]
        return " ".join(f"models.{which}.{name}={value}" for which, some in groups for name, value in some.items())

    @property
    def words(self) -> str:
        """Which model is shown how: "the original shown in the range [0,255]"."""
        return self.called("the images themselves" if self.own else "")

    @property
    def names(self) -> set[str]:
        """What people call the mean and std with which the changed models are shown images; one empty for none."""
        return {preset(self.new[model]) for model in self.changed}

    def called(self, name: str) -> str:
        """The words, with another name for the mean and std."""
        parts = [words(self.now[model], self.new[model], name) for model in self.changed]
        if len(parts) == 2 and parts[0] == parts[1]:
            return f"both shown {parts[0]}"
        return " and ".join(f"the {WHICH[model]} shown {part}" for model, part in zip(self.changed, parts, strict=True))

    def accuracy(self, labels: Tensor) -> tuple[float, float]:
        """Shares of the images for which either model gives the label (n,)."""
        first, second = (int((scores.argmax(-1) == labels).sum()) / len(labels) for scores in self.scores)
        return first, second


def accepted(
    explanation: Explanation,
    present: tuple[Tensor, Tensor] | None,
    labels: Tensor | None,
    least: float,
    z: float = SIGNIFICANT,
) -> bool:
    """Whether an explanation is more than chance: at least the agreement `least`, and surely better than at present.

    `present` are the scores of both models now, None where they cannot be compared. A model that knows the labels as
    well or better now is not to be shown otherwise; without labels two are not whose answers are more various now,
    and with labels none whose answers are far less various then than both now and the labels.
    """
    both = explanation.scores
    top = [scores.argmax(-1) for scores in both]
    beyond = float(kappa(top[0][None], top[1][None], both[0].shape[1]))
    if explanation.agreement < least:
        return False
    if present is None:
        return beyond >= _KAPPA
    if labels is not None:
        right = [(scores.argmax(-1) == labels) for scores in both]
        were = [(scores.argmax(-1) == labels) for scores in present]
        if any(int(right[model].sum()) <= int(were[model].sum()) for model in explanation.changed):
            return False
        classes = both[0].shape[1]
        for model in explanation.changed:
            least_various = min(_various(present[model].argmax(-1), classes), _various(labels, classes)) - _CRUDER
            if _various(top[model], classes) < least_various:
                return False
        if all(surely_better(right[model], were[model], SIGNIFICANT) for model in explanation.changed):
            return True
    if labels is None and len(explanation.changed) == 2:
        classes = both[0].shape[1]
        for model, one in enumerate(present):
            if _various(top[model], classes) < _various(one.argmax(-1), classes) - _POORER:
                return False
    return beyond >= _KAPPA and surely_better(agreed(both), agreed(present), z)


def revives(explanation: Explanation, least: float) -> bool:
    """Whether two models that now say one class of everything then agree on many: the only sign without labels."""
    tops = [scores.argmax(-1) for scores in explanation.scores]
    beyond = float(kappa(tops[0][None], tops[1][None], explanation.scores[0].shape[1]))
    various = all(float(top.bincount().max()) / len(top) <= _VARIOUS for top in tops)
    return explanation.agreement >= least and beyond >= 2 * _KAPPA and various


def _various(labels: Tensor, classes: int) -> float:
    return float(diversity(labels[None], classes))


def _same(first: object, second: object) -> bool:
    """Whether two values of a setting are equal, lists of whatever kind among them."""
    if isinstance(first, Sequence) and isinstance(second, Sequence) and not isinstance(first, str):
        return list(first) == list(second)
    return first == second


def _without(changed: dict[str, str], names: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in changed.items() if name not in names}
