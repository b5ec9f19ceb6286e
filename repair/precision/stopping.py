"""How many of an order's tensors are worth their bits."""

from collections.abc import Sequence

from repair.proof.intervals import Groups, Mask
from repair.proof.metrics import paired_rates


def enough(wrong: Sequence[Mask], groups: Groups | None = None) -> int:
    """The number of the first file than which the best one is not clearly better.

    `wrong` holds, a file each, on which of the same n images its label is another than the original's, (n,) bool;
    `groups` (n,) the seed that each image was made from. The best one has the fewest such images, of several the first.
    It is clearly better where the 95 % interval of the paired difference (`paired_rates`) lies above 0. So a plan does
    not grow by what chance explains, in the spirit of the one-standard-error rule (L. Breiman et al., Classification
    and Regression Trees, 1984). Raises `ValueError` without any file.
    """
    best = min(wrong, key=lambda mask: int(mask.sum()))
    for number, mask in enumerate(wrong):
        gained = paired_rates(~mask, ~best, groups).net
        if gained.low is None or gained.low <= 0:
            return number
    raise AssertionError("the best file is not clearly better than itself")
