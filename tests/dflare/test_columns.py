from dataclasses import dataclass

import torch
from torch import Tensor

from dflare import columns, ragged
from dflare.ragged import Ragged


@dataclass(frozen=True)
class Sheet:
    numbers: Tensor
    images: Tensor
    lists: Ragged


def sheet(*numbers: int) -> Sheet:
    values = torch.tensor(numbers)
    lists = ragged.empty(len(values), dtype=torch.int64).append(values, values % 2 == 1)
    return Sheet(values, values.view(-1, 1, 1).expand(-1, 2, 2), lists)


def rows(table: Sheet) -> list[tuple[int, int, list[int]]]:
    lists = [part.tolist() for part in table.lists.lists()]
    return list(zip(table.numbers.tolist(), table.images[:, 1, 1].tolist(), lists, strict=True))


def test_rows_are_taken_in_every_field_by_mask_and_by_index():
    table = sheet(1, 2, 3)
    assert rows(columns.take(table, torch.tensor([True, False, True]))) == [(1, 1, [1]), (3, 3, [3])]
    assert rows(columns.take(table, torch.tensor([1, 0]))) == [(2, 2, []), (1, 1, [1])]
    assert isinstance(columns.take(table, torch.tensor([0])), Sheet)


def test_rows_of_two_tables_are_joined_in_order():
    assert rows(columns.join(sheet(1, 2), sheet(3))) == [(1, 1, [1]), (2, 2, []), (3, 3, [3])]


def test_splitting_and_joining_gives_the_table_back():
    table, first = sheet(4, 5, 6, 7), torch.tensor([True, True, False, False])
    assert rows(columns.join(columns.take(table, first), columns.take(table, ~first))) == rows(table)
