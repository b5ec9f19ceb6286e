"""Which real images ways lead to: the nearest of other classes, by brute force and in every image size."""

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from dflare.classifiers import ModelPair, Outputs
from dflare.errors import InputError
from dflare.references import LEVELS, SIDE, References, sketch

SIZES = [(1, 1, 1), (1, 5, 3), (1, 28, 28), (3, 32, 32), (3, 33, 32), (3, 300, 200)]


def noise(n: int, size: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Noise of a mean of its own for each image: averages over squares stay different."""
    generator = torch.Generator().manual_seed(seed)
    high = torch.randint(1, 257, (n, 1, 1, 1), generator=generator)
    return (torch.rand(n, *size, generator=generator) * high).to(torch.uint8)


def said(labels: list[int], others: list[int] | None = None, classes: int = 3) -> Outputs:
    """What models say whose labels are these, the original's and the compressed model's."""
    return Outputs(
        *(torch.eye(classes)[torch.tensor(these, dtype=torch.int64)] for these in (labels, others or labels))
    )


def brute_force(references: References, image: Tensor, label: int, count: int) -> list[int]:
    """Numbers of the nearest usable references of one image, ties by number."""
    ours, theirs = sketch(image[None])[0].long(), sketch(references.images).long()
    original, compressed = references.outputs
    found = []
    for k in range(len(theirs)):
        same = bool((original[k] == original[k].max())[compressed[k].argmax()])
        if same and original[k].argmax() == compressed[k].argmax() != label:
            found.append((int((theirs[k] - ours).square().sum()), k))
    return [k for _, k in sorted(found)][:count]


@pytest.mark.parametrize("size", SIZES)
def test_the_nearest_of_other_classes_are_found_in_order(size):
    generator = torch.Generator().manual_seed(3)
    labels, others = (torch.randint(3, (40,), generator=generator).tolist() for _ in range(2))
    references = References(
        noise(40, size), said(labels, [a if i % 3 else b for i, (a, b) in enumerate(zip(labels, others, strict=True))])
    )
    images, ours = noise(6, size, seed=1), torch.tensor([0, 1, 2, 0, 1, 2])
    ranked, left = references.nearest(images, ours, 12)
    assert ranked.shape == (6, 12)
    for row in range(6):
        expected = brute_force(references, images[row], int(ours[row]), 12)
        assert ranked[row, : int(left[row])].tolist() == expected
        assert int(left[row]) == len(expected)


def test_references_of_the_same_class_or_on_which_the_pair_disagrees_are_never_used():
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1) * 32
    references = References(images, said([0, 1, 2, 1, 1, 0], [0, 1, 2, 2, 0, 1]))
    for label, usable in ((0, [1, 2]), (1, [0, 2]), (2, [0, 1])):
        ranked, left = references.nearest(images[:1], torch.tensor([label]), 6)
        assert ranked[0, : int(left)].tolist() == usable


def test_a_reference_whose_labels_differ_by_a_tie_is_not_used():
    outputs = Outputs(
        torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]), torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    )
    references = References(noise(2, (1, 4, 4)), outputs)
    assert outputs.deviates.tolist() == [False, False]
    ranked, left = references.nearest(noise(1, (1, 4, 4)), torch.tensor([0]), 2)
    assert ranked[0, : int(left)].tolist() == [1]


def test_fewer_than_asked_for_are_counted_as_so_many():
    images = noise(5, (1, 4, 4))
    references = References(images, said([0, 1, 0, 1, 2]))
    assert references.nearest(images[:3], torch.tensor([0, 1, 2]), 32)[1].tolist() == [3, 3, 4]
    assert references.nearest(images[:3], torch.tensor([0, 1, 2]), 2)[1].tolist() == [2, 2, 2]
    alike = References(images, said([1] * 5))
    assert alike.nearest(images[:2], torch.tensor([1, 0]), 32)[1].tolist() == [0, 5]


def test_no_references_at_all_are_none_left():
    references = References(noise(0, (1, 4, 4)), said([]))
    ranked, left = references.nearest(noise(2, (1, 4, 4)), torch.tensor([0, 1]), 32)
    assert ranked.shape == (2, 0)
    assert left.tolist() == [0, 0]


def test_equally_near_references_come_in_the_order_of_their_numbers():
    images = torch.tensor([64, 32, 96, 64, 96, 32, 64], dtype=torch.uint8).view(7, 1, 1, 1)
    ranked, left = References(images, said([1] * 7)).nearest(images[:1], torch.tensor([0]), 7)
    assert ranked.tolist() == [[0, 3, 6, 1, 2, 4, 5]]
    assert left.tolist() == [7]


@pytest.mark.parametrize("size", SIZES)
def test_the_nearest_do_not_depend_on_who_else_is_in_the_batch(size):
    references = References(noise(50, size), said([k % 3 for k in range(50)]))
    images, labels = noise(70, size, seed=1), torch.arange(70) % 3
    ranked, left = references.nearest(images, labels, 32)
    for rows in ([7], [69, 3, 20], list(range(64))):
        some = references.nearest(images[rows], labels[rows], 32)
        assert torch.equal(some[0], ranked[rows])
        assert torch.equal(some[1], left[rows])


@pytest.mark.parametrize("size", SIZES)
def test_sketches_are_few_whole_numbers_whose_distances_are_exact(size):
    channels, height, width = size
    images = torch.cat([noise(4, size), torch.full((1, *size), 255, dtype=torch.uint8)])
    sketches = sketch(images)
    assert torch.equal(sketches, sketches.floor())
    assert int(sketches.min()) >= 0
    assert int(sketches.max()) == LEVELS - 1
    assert sketches.shape[1] <= channels * SIDE * SIDE
    assert 2 * sketches.shape[1] * (LEVELS - 1) ** 2 < 2**24  # sums of whole numbers below this are exact in float32
    if max(height, width) <= SIDE:
        assert torch.equal(sketches, (images // (256 // LEVELS)).flatten(1).float())


def test_larger_images_are_averaged_over_squares():
    image, side = noise(1, (1, 70, 33)), 3  # the least side that leaves at most 32 squares
    expected = []
    for top in range(0, 70, side):
        for left in range(0, 33, side):
            square = image[0, 0, top : top + side, left : left + side].long()
            expected.append(int(Fraction(int(square.sum()), square.numel()) * LEVELS / 256))
    assert sketch(image)[0].tolist() == expected


def test_references_ask_the_pair_once_for_each_image(toy_pair, noise_seeds):
    pair, images = toy_pair(), noise_seeds(20, high=256).images
    references = References.ask(pair, images, batch_size=8)
    assert pair.asked == [20]
    assert pair.original.sizes == pair.compressed.sizes == [8, 8, 4]
    whole = toy_pair()(images)
    assert torch.equal(references.outputs.original, whole.original)
    assert torch.equal(references.outputs.compressed, whole.compressed)
    assert References.ask(toy_pair(), images[:0]).nearest(images[:2], torch.tensor([0, 0]), 5)[1].tolist() == [0, 0]


def test_references_must_be_images():
    pair = ModelPair(lambda x: x.flatten(1), lambda x: x.flatten(1))
    with pytest.raises(InputError, match="images must be uint8"):
        References.ask(pair, torch.zeros(2, 1, 4, 4))
