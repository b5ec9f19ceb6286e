import pytest
import torch
from torch import Tensor

from dflare.errors import InputError
from dflare.seeds import Seeds
from experiments.choosing import choose_seeds


def seeds_of(ids: list[int], labels: list[int] | None) -> Seeds:
    images = torch.tensor(ids, dtype=torch.uint8)[:, None, None, None]
    return Seeds(images, torch.tensor(ids), None if labels is None else torch.tensor(labels))


def chosen(seeds: Seeds, count: int, how: str, classes: Tensor | None = None) -> list[int]:
    found = choose_seeds(seeds, count, how, classes)
    assert found.images.flatten().tolist() == found.ids.tolist()  # what belongs together stays together
    return found.ids.tolist()


def test_random_seeds_are_the_first_by_id():
    seeds = seeds_of([2, 3, 5, 7, 11], [0, 0, 0, 1, 1])
    assert chosen(seeds, 3, "random") == [2, 3, 5]
    assert chosen(seeds.take(torch.tensor([4, 1, 0, 3, 2])), 3, "random") == [2, 3, 5]


def test_balanced_seeds_are_the_first_by_id_of_each_class():
    seeds = seeds_of(list(range(9)), [0, 0, 0, 0, 1, 1, 1, 2, 2])
    assert chosen(seeds, 6, "balanced") == [0, 1, 4, 5, 7, 8]


def test_last_places_go_to_the_lowest_ids_whatever_their_class():
    seeds = seeds_of(list(range(6)), [2, 2, 1, 1, 0, 0])
    assert chosen(seeds, 4, "balanced") == [0, 1, 2, 4]


def test_places_that_a_small_class_leaves_are_filled_by_the_others():
    seeds = seeds_of(list(range(10)), [0, 0, 0, 0, 1, 2, 2, 2, 2, 2])
    assert chosen(seeds, 7, "balanced") == [0, 1, 2, 4, 5, 6, 7]
    assert chosen(seeds, 99, "balanced") == list(range(10))


def test_any_order_of_the_seeds_gives_the_same_choice():
    generator = torch.Generator().manual_seed(0)
    seeds = seeds_of(list(range(200)), torch.randint(5, (200,), generator=generator).tolist())
    mixed = seeds.take(torch.randperm(200, generator=generator))
    for count in (1, 4, 17, 100):
        assert chosen(seeds, count, "balanced") == chosen(mixed, count, "balanced")


def test_counts_of_classes_differ_by_one_at_most_where_there_are_enough():
    generator = torch.Generator().manual_seed(1)
    seeds = seeds_of(list(range(250)), torch.randint(7, (250,), generator=generator).tolist())
    for count in range(1, 120, 7):
        labels = choose_seeds(seeds, count, "balanced").labels
        assert labels is not None
        counts = labels.bincount(minlength=7)
        assert counts.sum() == count
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("how", ["random", "balanced"])
def test_fewer_seeds_are_among_more(how):
    generator = torch.Generator().manual_seed(2)
    seeds = seeds_of(list(range(60)), torch.randint(4, (60,), generator=generator).tolist())
    for count in range(1, 60):
        assert set(chosen(seeds, count, how)) < set(chosen(seeds, count + 1, how))


def test_predicted_classes_stand_in_for_labels_that_are_missing():
    unlabelled, predicted = seeds_of(list(range(4)), None), torch.tensor([3, 3, 3, 8])
    assert chosen(unlabelled, 2, "balanced", predicted) == [0, 3]
    assert chosen(seeds_of(list(range(4)), [0, 1, 1, 1]), 2, "balanced", predicted) == [0, 1]


@pytest.mark.parametrize(
    ("count", "how", "classes", "complaint"),
    [
        (2, "blanced", None, r"search\.choose must be one of random, balanced, got 'blanced'"),
        (0, "random", None, "at least 1, got 0"),
        (2, "balanced", None, r"needs labels or predicted classes \(3,\), got none"),
        (2, "balanced", torch.zeros(2, dtype=torch.int64), "got 2"),
    ],
)
def test_a_choice_that_cannot_be_made_is_one_sentence(count, how, classes, complaint):
    with pytest.raises(InputError, match=complaint):
        choose_seeds(seeds_of([1, 2, 3], None), count, how, classes)
