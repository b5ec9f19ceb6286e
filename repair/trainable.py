"""A compressed model opened for repair: what every file format has to offer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from repair.compression import Plan


@dataclass(frozen=True)
class Trainable:
    """A compressed model whose weights can move, and the way back into the format that it came in.

    `module` maps images in [0, 1], float32 (n, c, h, w), to raw scores (n, classes); its parameters are latent
    weights, its `train` and `eval` do nothing (a compressed model has no training mode).
    `plan` names what must stay compressed. `write(weights, path)` puts projected weights, by parameter name, into a
    copy of the file. `check(path)` opens a written file again and raises `InputError` unless it is the same graph
    with other weights, still compressed in the same way.
    """

    module: nn.Module
    plan: Plan
    write: Callable[[Mapping[str, Tensor], Path], None]
    check: Callable[[Path], None]
