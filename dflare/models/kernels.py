"""Which of torch's kernels may answer."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def any_kernel() -> Iterator[None]:
    """Let int8 kernels answer: torch marks none as deterministic, and refuses them where a process asks for such.

    They add up integers, in any order to the same sum.
    """
    strict, lenient = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=lenient)
