"""Lists of different lengths, side by side: what every chain has collected so far."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """n lists in one tensor: list i is `values[i, :count[i]]`; what lies behind it means nothing."""

    values: Tensor  # (n, capacity, ...)
    count: Tensor  # (n,) int64

    def take(self, rows: Tensor) -> "Ragged":
        """Some of the lists, selected by mask or index."""
        return Ragged(self.values[rows], self.count[rows])

    def append(self, items: Tensor, where: Tensor) -> "Ragged":
        """Append `items[i]` to list i where `where[i]`; the capacity doubles when a list is full."""
        rows = where.nonzero().squeeze(-1)
        if not len(rows):
            return self
        values = self.values
        if bool((self.count[rows] >= values.shape[1]).any()):
            values = _widen(values, 2 * values.shape[1])
        else:
            values = values.clone()
        values[rows, self.count[rows]] = items[rows]
        return Ragged(values, self.count + where)

    def lists(self) -> list[Tensor]:
        """The n lists, each (count[i], ...)."""
        return [row[:length] for row, length in zip(self.values, self.count.tolist(), strict=True)]


def empty(
    n: int, *shape: int, dtype: torch.dtype = torch.float32, capacity: int = 8, device: torch.device | None = None
) -> Ragged:
    """n empty lists of items of that shape."""
    values = torch.zeros(n, capacity, *shape, dtype=dtype, device=device)
    return Ragged(values, torch.zeros(n, dtype=torch.int64, device=device))


def concatenate(first: Ragged, second: Ragged) -> Ragged:
    """The lists of both, the first's before the second's."""
    capacity = max(first.values.shape[1], second.values.shape[1])
    values = torch.cat([_widen(first.values, capacity), _widen(second.values, capacity)])
    return Ragged(values, torch.cat([first.count, second.count]))


def _widen(values: Tensor, capacity: int) -> Tensor:
    missing = capacity - values.shape[1]
    if not missing:
        return values
    return torch.cat([values, values.new_zeros(len(values), missing, *values.shape[2:])], dim=1)
