"""Whether the labels of the images are those of the models' classes."""

import torch
from torch import Tensor

from dflare.parity.checked import Finding
from dflare.parity.explanation import SIGNIFICANT
from dflare.parity.questions import WHICH, kappa, surely_better
from dflare.parity.symptoms import Symptoms

_ALIKE = 0.5  # agreement of the models beyond chance from which both have learned something
_KNOWING = 0.15  # accuracy beyond that of the most frequent label from which a model knows the labels
_RENAMED = 0.2  # accuracy that another order of the classes gives on images that did not choose it


def unlike_labels(symptoms: Symptoms, given: Tensor | None) -> list[Finding]:
    """A warning where two models that agree far beyond chance do not know the labels, or know them by other numbers.

    `given` are the labels (n,) as they came, which may not be of the models' classes at all.
    """
    both = symptoms.comparable
    if both is None or given is None:
        return []
    classes = both[0].shape[1]
    if len(given) and not 0 <= int(given.amin()) <= int(given.amax()) < classes:
        text = f"the labels go from {int(given.amin())} to {int(given.amax())}, the models' classes from 0 to "
        return [Finding(f"{text}{classes - 1}: no accuracy is known; are the labels those of these models?")]
    labels = symptoms.labels
    if labels is None:
        return []
    tops = [one.argmax(-1) for one in both]
    right = [top == labels for top in tops]
    chance = float(labels.bincount().max()) / len(labels)
    ignorant = all(float(one.float().mean()) <= chance + _KNOWING for one in right)
    alike = float(kappa(tops[0][None], tops[1][None], classes)) >= _ALIKE
    if (ignorant and alike) or all(_renamed(top, labels, classes) for top in tops):
        said = " and ".join(
            f"the {which} is right on {100 * float(one.float().mean()):.1f} %"
            for which, one in zip(WHICH, right, strict=True)
        )
        return [Finding(f"{said} of {len(labels)} images: are the labels those of these models, in this order?")]
    return []


def _renamed(tops: Tensor, labels: Tensor, classes: int) -> bool:
    """Whether a model knows the labels far better by other numbers: half of the images choose, the rest judge."""
    places = labels.argsort(stable=True)
    tops, labels = tops[places], labels[places]
    counts = torch.zeros(classes, classes)  # answers x labels
    counts.index_put_((tops[::2], labels[::2]), torch.ones(len(tops[::2])), accumulate=True)
    order = torch.full((classes,), -1)
    while float(counts.amax()) > 0:  # the most frequent pair first, each class once
        answer, label = divmod(int(counts.argmax()), classes)
        order[answer] = label
        counts[answer], counts[:, label] = 0, 0
    now, after = tops[1::2] == labels[1::2], order[tops[1::2]] == labels[1::2]
    better = float(after.float().mean() - now.float().mean()) >= _RENAMED
    return better and surely_better(after, now, SIGNIFICANT)
