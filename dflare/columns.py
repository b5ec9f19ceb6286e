"""Frozen dataclasses whose fields share one leading dimension, as tables: rows selected, rows joined.

A field is a tensor, a `Ragged`, a table of its own, or None.
"""

from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from dflare import ragged
from dflare.ragged import Ragged

Table = TypeVar("Table")


def take(table: Table, rows: Tensor) -> Table:
    """The rows of every field, selected by mask or index."""
    if rows.dtype == torch.bool:
        rows = rows.nonzero().squeeze(-1)  # once, and not once a field
    return type(table)(**{name: _rows(value, rows) for name, value in _columns(table)})


def join(first: Table, second: Table) -> Table:
    """The rows of both tables, the first's before the second's."""
    return type(first)(**{name: _joined(value, getattr(second, name)) for name, value in _columns(first)})


def where(rows: Tensor, first: Table, second: Table) -> Table:
    """The first's rows where `rows` (n,) bool, the second's elsewhere; for tables of tensors and of such tables."""
    if not bool(rows.any()):
        return second
    if bool(rows.all()):
        return first
    return type(first)(**{name: _chosen(rows, value, getattr(second, name)) for name, value in _columns(first)})


def _columns(table: Any) -> list[tuple[str, Any]]:
    return [(field.name, getattr(table, field.name)) for field in fields(table)]


def _rows(value: Any, rows: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value.index_select(0, rows)
    if isinstance(value, Ragged):
        return value.take(rows)
    return None if value is None else take(value, rows)


def _joined(first: Any, second: Any) -> Any:
    if isinstance(first, Tensor):
        return torch.cat([first, second])
    if isinstance(first, Ragged):
        return ragged.concatenate(first, second)
    return None if first is None else join(first, second)


def _chosen(rows: Tensor, first: Any, second: Any) -> Any:
    if isinstance(first, Tensor):
        return torch.where(rows.view(-1, *[1] * (first.ndim - 1)), first, second)
    return where(rows, first, second)
