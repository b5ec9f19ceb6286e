import torch

from dflare import ragged


def test_a_thousand_appends_equal_python_lists():
    generator = torch.Generator().manual_seed(0)
    lists, book = ragged.empty(5, 3, dtype=torch.float32), [[] for _ in range(5)]
    for _ in range(200):
        items, where = torch.rand(5, 3, generator=generator), torch.rand(5, generator=generator) < 0.5
        lists = lists.append(items, where)
        for row in where.nonzero().flatten().tolist():
            book[row].append(items[row])
    assert lists.count.tolist() == [len(written) for written in book]
    for ours, written in zip(lists.lists(), book, strict=True):
        assert torch.equal(ours, torch.stack(written))


def test_appending_leaves_the_former_lists_as_they_were():
    for fill in (0, 8):  # with room left, and full
        before = ragged.empty(2, dtype=torch.int64)
        for number in range(fill):
            before = before.append(torch.tensor([number, number]), torch.tensor([True, True]))
        values, count = before.values.clone(), before.count.clone()
        before.append(torch.tensor([77, 77]), torch.tensor([True, False]))
        assert torch.equal(before.values, values)
        assert torch.equal(before.count, count)


def test_nothing_appended_is_the_same_object():
    lists = ragged.empty(2, dtype=torch.int64)
    assert lists.append(torch.tensor([1, 1]), torch.tensor([False, False])) is lists


def test_capacity_doubles_only_when_a_list_is_full():
    lists, everyone = ragged.empty(1, dtype=torch.int64, capacity=1), torch.tensor([True])
    capacities = []
    for number in range(9):
        lists = lists.append(torch.tensor([number]), everyone)
        capacities.append(lists.values.shape[1])
    assert capacities == [1, 2, 4, 4, 8, 8, 8, 8, 16]
    assert lists.lists()[0].tolist() == list(range(9))


def test_lists_of_different_capacity_are_put_together():
    short, long = ragged.empty(1, dtype=torch.int64, capacity=1), ragged.empty(2, dtype=torch.int64, capacity=4)
    short = short.append(torch.tensor([5]), torch.tensor([True]))
    long = long.append(torch.tensor([6, 7]), torch.tensor([False, True]))
    for parts, expected in (((short, long), [[5], [], [7]]), ((long, short), [[], [7], [5]])):
        assert [part.tolist() for part in ragged.concatenate(*parts).lists()] == expected


def test_lists_are_taken_by_mask_and_by_index():
    lists = ragged.empty(3, dtype=torch.int64).append(torch.tensor([1, 2, 3]), torch.tensor([True, False, True]))
    assert [part.tolist() for part in lists.take(torch.tensor([False, True, True])).lists()] == [[], [3]]
    assert [part.tolist() for part in lists.take(torch.tensor([2, 0])).lists()] == [[3], [1]]
