"""Usual slips in which of a model's answers is which class."""

from dflare.models.interface import chosen_classes

BACKGROUND = 1001
"""Answers of ImageNet models that keep a class 0 for what is none of the thousand (TensorFlow-Slim)."""


def usual_orders(present: str | None, answers: int, other: int) -> list[str | None]:
    """Settings `classes` to try for a model with so many classes at present, and its partner; the present one first.

    One class more than the partner: without the first or the last; as many: all shifted by one, round about.
    """
    now = list(range(answers)) if present is None else chosen_classes(present)
    if answers == other + 1 and other >= 2:
        return [present, written(now[1:]), written(now[:-1])]
    if answers != other:
        return [present]
    shifted = [now[1:], now[:-1]] if answers == BACKGROUND else []
    return [present, *(written(order) for order in (*shifted, now[1:] + now[:1], now[-1:] + now[:-1]))]


def written(classes: list[int]) -> str:
    """The numbers as `chosen_classes` reads them, runs as ranges: [1, 2, 3, 0] is "1-3,0"."""
    runs: list[list[int]] = []
    for number in classes:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
