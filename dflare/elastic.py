"""The mutation that deforms an image smoothly."""

import torch
from torch import Tensor

from dflare.mutations import Mutation
from dflare.random import Draws, Purpose
from dflare.sampling import CELLS, ONE, UNIT, field, sample

_REACH = 23  # of a control, in 256ths of the side: 9 %


def elastic(images: Tensor, draws: Draws) -> Tensor:
    """Displace along a cubic B-spline over 4 x 4 cells whose controls move by up to 9 % of the height and width.

    The strength is uniform; at its largest the displacement's standard deviation is 2.5 % of the side, half of what
    Simard, Steinkraus and Platt (ICDAR 2003) trained with on digits (alpha 34, sigma 4), as smooth as theirs. 9 %
    of the side is 0.36 cells: up to 0.48 nothing folds (Choi and Lee, Graphical Models 62, 2000).
    """
    strength = draws.purpose(Purpose.STRENGTH).integers(ONE + 1)
    controls = draws.purpose(Purpose.VALUE).integers(2 * ONE + 1, 2, CELLS + 3, CELLS + 3) - ONE
    return deform(images, controls, strength)


ELASTIC: dict[str, Mutation] = {"elastic": elastic}


def deform(images: Tensor, controls: Tensor, strength: Tensor) -> Tensor:
    """Images seen at `controls` (n, 2, k + 3, l + 3) int64, down and right, times `strength` (n,) int64.

    Both in 1/256, the controls in [-256, 256]; 1 stands for 9 % of the height and width.
    """
    old = []
    for axis, side in enumerate(images.shape[-2:]):
        pixels = torch.arange(side, dtype=torch.int32, device=images.device) * ONE
        steps = (strength * _REACH * side).double() / (UNIT**2 * ONE**2)
        moved = (field(controls[:, axis], *images.shape[-2:]) * steps[:, None, None]).round().to(torch.int32)
        old.append(moved + (pixels[:, None] if axis == 0 else pixels))
    return sample(images, old[0], old[1])
