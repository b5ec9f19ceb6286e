"""Two models whose scores are of very different size: the sign of a wrong range where the answers do not give it away.

A network without biases answers much the same whether white is 1 or 255, but its scores are 255 times as large.
"""

from torch import Tensor

from dflare.parity.explanation import Explanation

_FAR, _NEAR = 20.0, 3.0
"""How many times larger one model's scores are that is striking, and that is not."""

_SATURATED = 100.0
"""Logits by which a class leads when a model is shown too much: a trained network's are some 5 to 30."""


def size(scores: Tensor) -> float:
    """By how much the top score usually exceeds a usual one: medians over classes and images of (n, classes)."""
    return float((scores.amax(-1) - scores.median(-1).values).median())


def unlike(scores: tuple[Tensor, Tensor]) -> float | None:
    """How many times larger the one model's scores are; None where that is not striking or cannot be said."""
    first, second = size(scores[0]), size(scores[1])
    if not (0 < first < float("inf") and 0 < second < float("inf")):
        return None
    ratio = max(first, second) / min(first, second)
    return ratio if ratio > _FAR else None


def explained(scores: tuple[Tensor, Tensor], found: list[Explanation], agreement: float) -> Explanation | None:
    """The best change to one model that makes both models' scores of one size and costs no agreement.

    To the larger one where it leads by more than a trained network does, else to the smaller one.
    """
    sizes = [size(one) for one in scores]
    large = int(sizes[1] > sizes[0])
    suspect = large if sizes[large] > _SATURATED else 1 - large
    for one in found:
        after = [size(changed) for changed in one.scores]
        alike = min(after) > 0 and max(after) / min(after) < _NEAR
        if one.changed == [suspect] and alike and one.agreement >= agreement:
            return one
    return None
