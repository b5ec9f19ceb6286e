"""How many images the models are asked about in other ways: as many as take so long, however busy the machine is."""

from collections.abc import Callable
from time import monotonic, process_time

from torch import Tensor

from dflare.models.shown import Shown
from dflare.parity.questions import Questions, asked
from dflare.parity.slips import MOST

SIEVE = 32
"""Images on which all ways are tried; fewer where the models are slow."""

_FEW, _LEAST = 8, 8  # images: to measure with, and of the sieve
_TIMES = 2  # measured so often, the fastest counts
_WAITING = 10  # a model that waits for another process takes no less than this part of the time that passes


def budgeted(
    models: tuple[Shown, Shown],
    images: Tensor,
    seconds: float,
    computing: Callable[[], float] = process_time,
    passing: Callable[[], float] = monotonic,
) -> tuple[Questions, int]:
    """Questions for about so many seconds, and on how many images, 8 to `SIEVE`, half of them try all ways.

    In seconds of a machine that does nothing else: of the time that passes and the time that this process computes,
    on whatever number of cores, the less counts.
    """
    few = images[:_FEW]
    spent = []
    for _ in range(_TIMES):
        starts = computing(), passing()
        for model in models:
            asked(model, model.interface, few)
        spent.append((computing() - starts[0], passing() - starts[1]))
    computed, passed = (min(some) for some in zip(*spent, strict=True))
    each = min(passed, max(computed, passed / _WAITING)) / (len(models) * len(few))
    most = int(min(seconds / max(each, 1e-9), 2**31))
    return Questions(models, images, most), max(_LEAST, min(SIEVE, most // (2 * len(models) * MOST)))
