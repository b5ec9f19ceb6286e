"""What counts as a deviation, and every answer of a model that is refused."""

import math

import pytest
import torch
from torch import Tensor

from dflare.classifiers import Classifier, ModelPair, Outputs, ask, check_scores
from dflare.errors import InputError

IMAGES = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)


def saying(*scores: float) -> Classifier:
    return lambda images: torch.tensor(scores).expand(len(images), -1)


@pytest.mark.parametrize(
    ("original", "compressed", "deviates", "tied"),
    [
        ([3, 2, 1], [3, 1, 2], False, False),
        ([3, 2, 1], [2, 3, 1], True, False),
        ([3, 3, 1], [2, 3, 1], False, True),  # the labels 0 and 1 differ, the sets {0, 1} and {1} meet
        ([3, 3, 1], [3, 2, 1], False, False),
        ([3, 3, 1], [1, 2, 3], True, False),
        ([3, 3, 1], [1, 3, 3], False, True),
        ([3, 3, 1, 1], [1, 1, 3, 3], True, False),
        ([3, 3, 3], [1, 2, 3], False, True),
        ([0, -math.inf, -math.inf], [-math.inf, 0, 0], True, False),
        ([0, 0, -math.inf], [-math.inf, 0, 0], False, True),
    ],
)
def test_models_deviate_where_their_sets_of_top_classes_are_disjoint(original, compressed, deviates, tied):
    for first, second in ((original, compressed), (compressed, original)):
        outputs = Outputs(torch.tensor([first]).float(), torch.tensor([second]).float())
        assert outputs.deviates.tolist() == [deviates]
        assert outputs.tied.tolist() == [tied]


def test_the_rounding_of_a_softmax_neither_makes_nor_hides_a_deviation():
    close = torch.tensor([[1e-9, 2e-9, -1.0]])
    assert close.softmax(-1)[0, 0] == close.softmax(-1)[0, 1]  # one probability for two scores
    apart = Outputs(close, torch.tensor([[1.0, 0.0, 0.0]]))
    assert apart.deviates.tolist() == [True]
    assert apart.tied.tolist() == [False]
    saturated = Outputs(torch.tensor([[200.0, 0.0]]), torch.tensor([[100.0, 0.0]]))
    assert saturated.deviates.tolist() == [False]


def test_figures_follow_from_the_scores_by_hand():
    p, q = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.2, 0.7, 0.1]])
    outputs = Outputs(p.log() + 5, q.log() - 2)  # a softmax forgets an added constant
    torch.testing.assert_close(outputs.probabilities, (p, q))
    torch.testing.assert_close(outputs.divergence, torch.tensor([0.2]))
    torch.testing.assert_close(outputs.margin, torch.tensor([0.2]))
    torch.testing.assert_close(outputs.joint, torch.cat([p, q], 1))
    assert [labels.item() for labels in outputs.labels] == [0, 1]


def outputs(original: list[list[float]], compressed: list[list[float]]) -> Outputs:
    return Outputs(torch.tensor(original).float(), torch.tensor(compressed).float())


def test_the_score_margin_is_the_smaller_of_both_models_and_0_for_ties():
    said = outputs([[5, 1, 3], [2, 2, 0], [9, 0, 0], [-7, -1, -4]], [[4, 0, 1], [9, 0, 1], [1, 4, 4], [1000, 0, 999]])
    assert said.score_margin.tolist() == [2, 0, 0, 1]


def test_the_score_margin_does_not_saturate_where_that_of_the_probabilities_does():
    sure = outputs([[50, 0], [90, 0]], [[60, 0], [99, 0]])
    assert sure.margin.tolist() == [1, 1]
    assert sure.score_margin.tolist() == [50, 90]


def test_a_class_that_is_impossible_leaves_the_score_margin_to_the_other_model():
    said = outputs([[0, -math.inf], [0, -math.inf]], [[3, 1], [-math.inf, 0]])
    assert said.score_margin.tolist() == [2, math.inf]


def test_margins_of_a_class_are_held_against_the_best_other():
    said = outputs([[5, 1, 3]] * 3, [[0.5, 4, 1]] * 3)
    margins = said.margins_of(torch.tensor([0, 1, 2]))
    assert margins.dtype == torch.float64
    assert margins.tolist() == [[2, -3.5], [-4, 3], [-2, -3]]


def test_margins_tell_deviations_and_ties_as_the_sets_of_top_classes_do():
    generator = torch.Generator().manual_seed(0)
    said = Outputs(*(torch.randint(3, (500, 4), generator=generator).float() for _ in range(2)))  # many ties
    for label in range(4):
        margins = said.margins_of(torch.full((500,), label))
        for margin, scores in zip(margins.T, said, strict=True):
            top = scores == scores.amax(-1, keepdim=True)
            assert torch.equal(margin >= 0, top[:, label])
            assert torch.equal(margin > 0, top[:, label] & (top.sum(-1) == 1))
        assert said.deviates[(margins.amax(-1) > 0) & (margins.amin(-1) < 0)].all()


@pytest.mark.parametrize(
    ("original", "compressed", "expected"),
    [
        ([0, -math.inf, -math.inf], [2.0, 1, 0], [1, 1]),  # certain: the other model's margin stands in
        ([2.0, 1, 0], [-math.inf, 0, -1], [1, 1]),  # impossible: the same
        ([1.0, 2, 0], [-math.inf, 0, -1], [-1, -1]),
        ([0, -math.inf, 0], [2.0, 1, 0], [0, 1]),  # a tie is finite and stays
        ([0, 0, -math.inf], [0.0, -math.inf, -math.inf], [0, 0]),
        ([0, -math.inf, -math.inf], [0, -math.inf, -math.inf], [1e4, 1e4]),
        ([0, -math.inf, -math.inf], [-math.inf, 0, -math.inf], [1e4, -1e4]),
        ([-math.inf, 0, 0], [-math.inf, 0, -math.inf], [-1e4, -1e4]),
    ],
)
def test_infinite_margins_are_replaced_by_the_other_models_or_clamped(original, compressed, expected):
    for rows in (slice(0, 1), slice(None)):  # alone and in company
        said = outputs([original, [1, 2, 3]], [compressed, [3, 2, 1]])
        some = Outputs(said.original[rows], said.compressed[rows])
        assert some.margins_of(torch.zeros(len(some.original), dtype=torch.int64))[0].tolist() == expected


def test_outputs_are_taken_by_mask():
    outputs = Outputs(torch.arange(6.0).view(3, 2), -torch.arange(6.0).view(3, 2))
    taken = outputs.take(torch.tensor([False, True, True]))
    assert taken.original.tolist() == [[2, 3], [4, 5]]
    assert taken.compressed.tolist() == [[-2, -3], [-4, -5]]


def test_models_are_shown_float_images_between_0_and_1():
    shown: list[Tensor] = []

    def classifier(images: Tensor) -> Tensor:
        shown.append(images)
        return torch.zeros(len(images), 2)

    ModelPair(classifier, classifier)(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1))
    assert len(shown) == 2
    assert shown[0].dtype == torch.float32
    assert shown[0].flatten().tolist() == torch.tensor([0, 0.2, 1]).tolist()


def test_a_pair_counts_one_query_an_image():
    pair = ModelPair(saying(1, 0), saying(0, 1))
    outputs = pair(IMAGES)
    pair(IMAGES[:1])
    assert outputs.deviates.tolist() == [True] * 3
    assert pair.asked == [4]
    assert ModelPair(saying(1, 0), saying(0, 1)).asked == [0]


def test_no_gradient_is_kept():
    weight = torch.ones(16, 2, requires_grad=True)

    def classifier(images: Tensor) -> Tensor:
        return images.flatten(1) @ weight

    assert not ModelPair(classifier, saying(1, 0))(IMAGES).original.requires_grad
    assert not ask(classifier, IMAGES).requires_grad


@pytest.mark.parametrize("scores", [torch.float16, torch.float64, torch.int32])
def test_scores_of_other_types_become_float32(scores):
    assert check_scores(torch.tensor([[1, 2]]).to(scores), 1, "original").dtype == torch.float32


BAD_IMAGES = [
    (torch.zeros(1, 1, 8, 8), r"uint8 \(n, channels, height, width\), got float32 \(1, 1, 8, 8\)"),
    (torch.zeros(8, 8, dtype=torch.uint8), r"uint8 \(n, channels, height, width\), got uint8 \(8, 8\)"),
    (torch.zeros(1, 1, 8, 8, dtype=torch.int64), "got int64"),
]


@pytest.mark.parametrize(("images", "words"), BAD_IMAGES)
def test_other_images_than_uint8_with_four_dimensions_are_refused(images, words):
    pair = ModelPair(saying(1, 0), saying(1, 0))
    with pytest.raises(InputError, match=words):
        pair(images)
    with pytest.raises(InputError, match=words):
        ask(saying(1, 0), images)
    assert pair.asked == [0]


BAD_SCORES = [
    (lambda x: torch.full((len(x), 2), torch.nan), "finite scores, got NaN or infinity for 3 of 3 images"),
    (lambda x: torch.tensor([[0.0, 1], [torch.inf, 0], [1, 0]]), "finite scores, got NaN or infinity for 1 of 3"),
    (lambda x: torch.tensor([[0.0, torch.nan], [0, 0], [1, 0]]), "NaN or infinity for 1 of 3"),
    (lambda x: torch.full((len(x), 2), -torch.inf), "NaN or infinity for 3 of 3"),  # no class is possible
    (lambda x: torch.zeros(len(x)), r"shape \(3, classes\) for 3 images, got \(3,\)"),
    (lambda x: torch.zeros(len(x), 1), r"shape \(3, classes\) for 3 images, got \(3, 1\)"),
    (lambda x: torch.zeros(1, 2), r"shape \(3, classes\) for 3 images, got \(1, 2\)"),
    (lambda x: torch.zeros(len(x), 2, 1, 1), r"got \(3, 2, 1, 1\)"),
    (lambda x: (torch.zeros(len(x), 2),), r"shape \(3, classes\) for 3 images, got a tuple"),
]


@pytest.mark.parametrize(("bad", "words"), BAD_SCORES)
def test_answers_that_are_no_scores_are_refused_and_the_model_named(bad, words):
    for pair, name in ((ModelPair(bad, saying(1, 0)), "original"), (ModelPair(saying(1, 0), bad), "compressed")):
        with pytest.raises(InputError, match=f"the {name} model must return .*{words}"):
            pair(IMAGES)
    with pytest.raises(InputError, match=f"the teacher model must return .*{words}"):
        ask(bad, IMAGES, "teacher")


def test_a_probability_of_zero_is_no_error():
    outputs = ModelPair(saying(0, -math.inf), saying(-math.inf, 0))(IMAGES)
    assert outputs.probabilities[0].tolist() == [[1, 0]] * 3
    assert outputs.deviates.tolist() == [True] * 3


def test_models_with_different_classes_are_refused_by_numbers():
    with pytest.raises(InputError, match="same classes, got 3 from the original and 2 from the compressed"):
        ModelPair(saying(1, 0, 0), saying(1, 0))(IMAGES)


def test_asking_in_batches_gives_the_answers_of_one():
    images = torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1)
    sizes = []

    def classifier(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return torch.cat([images.flatten(1), -images.flatten(1)], 1)

    scores = ask(classifier, images, batch_size=3)
    assert sizes == [3, 3, 1]
    assert torch.equal(scores, ask(classifier, images))


def test_answers_can_serve_as_targets_of_a_loss():
    targets = ask(saying(1, 0), IMAGES)
    weight = torch.ones(3, 2, requires_grad=True)
    (weight * targets).sum().backward()  # refuses tensors made in inference mode
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1, 0]] * 3


def test_the_shared_label_is_a_top_class_of_both_models():
    original = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [2.0, 1.0, 0.0]])
    compressed = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    outputs = Outputs(original, compressed)
    assert outputs.shared_label.tolist() == [1, 0, 0]
    assert (outputs.margins_of(outputs.shared_label)[:2] >= 0).all()


def test_large_finite_margins_stay_as_they_are():
    outputs = Outputs(torch.tensor([[3e5, 0.0]]), torch.tensor([[-2e5, 0.0]]))
    assert outputs.margins_of(torch.tensor([0])).tolist() == [[3e5, -2e5]]
