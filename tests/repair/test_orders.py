"""Balanced orders: every group weighs the same within reason, and every place depends on seed and place alone."""

import pytest
import torch

from dflare.classifiers import Outputs
from repair.data import Examples, Mixture
from repair.orders import MOST, Balanced, Shuffled, label_pairs

SIZES = (40, 40, 20)


def groups(sizes: tuple[int, ...]) -> torch.Tensor:
    """Items in groups of these sizes, mixed up."""
    made = torch.cat([torch.full((size,), 10 * number) for number, size in enumerate(sizes)])
    return made[torch.randperm(len(made), generator=torch.Generator().manual_seed(0))]


def test_every_group_fills_the_same_share_of_the_places():
    given = groups(SIZES)
    shown = given[Balanced(given, seed=3)(0, 3000)]
    assert [(shown == 10 * number).sum().item() for number in range(3)] == [1000, 1000, 1000]


def test_an_unbalanced_order_does_not():
    given = groups(SIZES)
    shown = given[Shuffled(len(given), 3)(0, 3000)]
    assert [(shown == 10 * number).sum().item() for number in range(3)] == [1200, 1200, 600]


def test_within_a_group_every_item_comes_once_a_pass():
    given = groups(SIZES)
    items = Balanced(given, seed=3)(0, 3 * 40 * 2)  # two passes over the large groups, four over the small one
    counts = torch.bincount(items, minlength=len(given))
    assert counts[given == 0].tolist() == counts[given == 10].tolist() == [2] * 40
    assert counts[given == 20].tolist() == [4] * 20


@pytest.mark.parametrize("sizes", [(1, 99), (1, 1, 1, 97), (50, 50), (1,), tuple(range(1, 30)), (1, 2, 500, 500)])
def test_no_item_comes_much_more_often_than_without_balance(sizes: tuple[int, ...]):
    given = groups(sizes)
    order = Balanced(given, seed=3)
    total = sum(sizes)
    assert sorted(torch.cat(order.members).tolist()) == list(range(total))
    assert max(total / (len(order.members) * len(rows)) for rows in order.members) <= MOST


def test_places_do_not_depend_on_how_they_are_asked_for():
    order, other = Balanced(groups(SIZES), seed=3), Balanced(groups(SIZES), seed=3)
    whole = order(0, 500)
    assert torch.equal(torch.cat([other(start, 7) for start in range(0, 497, 7)]), whole[:497])
    assert torch.equal(other(123, 40), whole[123:163])
    assert not torch.equal(Balanced(groups(SIZES), seed=4)(0, 500), whole)


def test_groups_are_pairs_of_labels():
    original = torch.eye(3)[torch.tensor([0, 0, 1, 2, 0])]
    compressed = torch.eye(3)[torch.tensor([1, 2, 0, 0, 1])]
    found = label_pairs(Outputs(original, compressed)).tolist()
    assert found[0] == found[4]
    assert len(set(found)) == 4


def test_a_placebo_learns_the_seed_of_the_trigger_at_the_same_place():
    """Triggers i and seeds i + 100: with the same groups, batch by batch and place by place."""
    numbers, given = torch.arange(100), groups(SIZES)
    clean = Examples(torch.full((9, 1, 1, 1), 255, dtype=torch.uint8), torch.zeros(9, 2))
    both = [
        Mixture(
            Examples((numbers + 100 * k).to(torch.uint8).view(-1, 1, 1, 1), torch.zeros(100, 2)),
            clean,
            16,
            0.5,
            1,
            given,
        )
        for k in (0, 1)
    ]
    for number in (0, 5, 31):
        repair, placebo = ((mixture[number].images * 255).round().flatten() for mixture in both)
        assert torch.equal(placebo[:8], repair[:8] + 100)
        assert torch.equal(placebo[8:], repair[8:])


def test_groups_of_another_length_are_refused():
    some = Examples(torch.zeros(5, 1, 1, 1, dtype=torch.uint8), torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"groups must be \(5,\)"):
        Mixture(some, some, 4, 0.5, 0, torch.zeros(4, dtype=torch.int64))
