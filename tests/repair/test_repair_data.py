"""Batches mix triggers and clean images in the promised share, in an order that depends on (seed, number) alone."""

import torch

from dflare.classifiers import to_unit
from repair.data import Examples, Mixture, RepairData


def examples(n: int, first: int) -> Examples:
    """n one-pixel images; image i has the value first + i, and so does its target."""
    values = torch.arange(first, first + n)
    return Examples(values.to(torch.uint8).view(-1, 1, 1, 1), values.float().view(-1, 1))


def values(batch) -> list[int]:
    return (batch.images.flatten() * 255).round().int().tolist()


def test_targets_belong_to_their_own_images():
    mixture = Mixture(examples(20, 0), examples(100, 100), 16, 0.5, seed=3)
    for number in range(30):
        batch = mixture[number]
        assert values(batch) == batch.targets.flatten().int().tolist()


def test_a_batch_holds_the_promised_share_of_clean_images():
    batch = Mixture(examples(20, 0), examples(100, 100), 16, 0.75, seed=3)[5]
    assert batch.is_trigger.tolist() == [True] * 4 + [False] * 12
    assert all(
        (value < 100) == trigger for value, trigger in zip(values(batch), batch.is_trigger.tolist(), strict=True)
    )


def test_every_pass_shows_every_trigger_once():
    mixture = Mixture(examples(20, 0), examples(100, 100), 16, 0.5, seed=3)
    shown = [value for number in range(5) for value in values(mixture[number])[:8]]  # 40 triggers: two passes of 20
    assert sorted(shown[:20]) == sorted(shown[20:]) == list(range(20))
    assert shown[:20] != shown[20:]


def test_a_batch_depends_on_seed_and_number_alone():
    make = lambda seed: Mixture(examples(20, 0), examples(100, 100), 16, 0.5, seed)  # noqa: E731
    one, two = make(3), make(3)
    one[0], one[1]
    assert values(one[7]) == values(two[7])
    assert values(one[7]) != values(make(4)[7])


def test_without_triggers_or_without_clean_images_the_others_fill_the_batch():
    nothing = Examples(torch.zeros(0, 1, 1, 1, dtype=torch.uint8), torch.zeros(0, 1))
    assert not Mixture(nothing, examples(100, 100), 16, 0.5, 0)[0].is_trigger.any()
    assert Mixture(examples(20, 0), nothing, 16, 0.5, 0)[0].is_trigger.all()


def test_validation_shows_every_image_once_and_keeps_triggers_apart():
    mixture = Mixture(examples(4, 0), examples(4, 100), 4, 0.5, seed=0)
    data = RepairData(mixture, 10, examples(30, 0), examples(50, 100))
    batches = list(data.val_dataloader())
    assert [value for batch in batches for value in values(batch)] == [*range(30), *range(100, 150)]
    assert [len(batch.images) for batch in batches if batch.is_trigger.all()] == [30]


def test_images_reach_the_model_in_zero_to_one():
    batch = Mixture(examples(4, 250), examples(4, 250), 4, 0.5, seed=0)[0]
    assert torch.equal(batch.images, to_unit((batch.targets.view(-1, 1, 1, 1)).to(torch.uint8)))
    assert batch.images.max() <= 1
