"""What two models say of real images as they are shown them, and what in it no working classifier says."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from dflare.parity.checked import Checked, Finding, percent
from dflare.parity.questions import WHICH, agreed, usable_rows

_ONE_LABEL, _MANY_LABELS = 0.95, 0.8
"""From which share of the images on one answer is striking, where no label stands at more than the second share."""

_FEW = 20  # images below which it is not
_EXACT, _COARSE = 1e-3, 0.04  # how far the sum of probabilities may be from 1: of floats, of multiples of 1/256
_ROUNDING = 1e-6  # of the greatest score


@dataclass(frozen=True)
class Symptoms:
    """Scores (n, classes) of the original and the compressed, or in words why there are none."""

    scores: tuple[Tensor | str, Tensor | str]
    images: Tensor  # (n, c, h, w) uint8
    labels: Tensor | None  # (n,), where they fit the models' classes

    @property
    def usable(self) -> list[Tensor]:
        """The scores that are finite."""
        return [one for one in self.scores if isinstance(one, Tensor) and bool(usable_rows(one).all())]

    @property
    def comparable(self) -> tuple[Tensor, Tensor] | None:
        """The scores of both, where both are finite and of the same classes."""
        usable = self.usable
        return (usable[0], usable[1]) if len(usable) == 2 and usable[0].shape == usable[1].shape else None

    @property
    def broken(self) -> dict[int, str]:
        """Which models (0, 1) do what no classifier does, in words: raise, return NaN, say the same of all images."""
        said = {model: _broken(f"the {WHICH[model]} model", one, self.images) for model, one in enumerate(self.scores)}
        return {model: text for model, text in said.items() if text}

    @property
    def one_answer(self) -> list[Finding]:
        """A hint for each model that says one class nearly always although, where there are labels, they do not.

        None for a broken one, of which more is said.
        """
        tops = [None if isinstance(one, str) else one.argmax(-1) for one in self.scores]
        broken, hints = self.broken, []
        for model, top in enumerate(tops):
            if top is None or len(top) < _FEW or model in broken:
                continue
            share, most = _most(top)
            if share >= _ONE_LABEL and (self.labels is None or _most(self.labels)[0] <= _MANY_LABELS):
                hints.append(Finding(f"the {WHICH[model]} answers class {most} for {percent(share)} of the images"))
        return hints

    def figures(self) -> Checked:
        """The figures of the scores, without findings."""
        both = self.comparable
        counts = [one.shape[1] if isinstance(one, Tensor) else None for one in self.scores]
        right = [
            None
            if isinstance(one, str) or self.labels is None
            else int((one.argmax(-1) == self.labels).sum()) / len(one)
            for one in self.scores
        ]
        return Checked(
            len(self.images),
            None if both is None else int(agreed(both).sum()),
            (right[0], right[1]),
            (counts[0], counts[1]),
        )


def are_probabilities(scores: Tensor) -> bool:
    """Whether all rows (n, classes) are non-negative and sum to 1, to within what float32 or 8 bits leave of it."""
    if not len(scores) or not bool((scores >= 0).all()):
        return False
    coarse = bool(((scores * 256) % 1 == 0).all())
    return bool(((scores.sum(-1) - 1).abs() <= (_COARSE if coarse else _EXACT)).all())


def fitting_labels(labels: Tensor | None, counts: list[int], label_count: int | None) -> Tensor | None:
    """The labels where they can be those of models of so many classes, else None.

    `label_count`, the classes of the labels where that is known, is to be theirs, or one more or less.
    """
    if (
        labels is None
        or not len(labels)
        or not counts
        or not 0 <= int(labels.amin()) <= int(labels.amax()) < max(counts)
    ):
        return None
    if label_count is not None and min(abs(label_count - count) for count in counts) > 1:
        return None
    return labels.long()


def _broken(name: str, scores: Tensor | str, images: Tensor) -> str:
    if isinstance(scores, str):
        return scores
    bad = int((~usable_rows(scores)).sum())
    if bad:
        return f"{name} must return finite scores, got NaN or infinity for {bad} of {len(scores)} images"
    spread = (scores - scores[:1]).nan_to_num(0.0).abs().amax()
    size = scores[scores.isfinite()].abs().amax()
    different = any(not torch.equal(one, following) for one, following in pairwise(images))
    if different and float(spread) <= _ROUNDING * float(size):
        return f"{name} must look at the images, it gives the same scores for all {len(scores)} of them"
    return ""


def _most(labels: Tensor) -> tuple[float, int]:
    """The share of the most frequent label, and the label."""
    counts = labels.bincount()
    return float(counts.amax()) / len(labels), int(counts.argmax())
