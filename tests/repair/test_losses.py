"""Every loss against its closed form, and the laws that make a placebo a placebo."""

import math

import pytest
import torch
from torch import Tensor

from dflare.errors import InputError
from repair.losses import LOSSES, calibrated, hinge, imitation, labels, lead, logits, loss_options, make_loss, soft
from repair.losses import by_margin as margin
from repair.module import Batch


def batch(targets: Tensor, triggers: list[bool], given: list[int] | None = None) -> Batch:
    images = torch.zeros(len(targets), 1, 1, 1)
    return Batch(images, targets, torch.tensor(triggers), None if given is None else torch.tensor(given))


def random_batch(n: int = 40, classes: int = 5, seed: int = 0) -> tuple[Tensor, Batch]:
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(n, classes, generator=generator)
    targets = (3 * torch.randn(n, classes, generator=generator)).softmax(-1)
    return scores, batch(targets, [k % 2 == 0 for k in range(n)])


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_gives_finite_terms_and_a_gradient_to_every_image(name: str):
    scores, some = random_batch()
    scores.requires_grad_()
    terms = make_loss(name, {})(scores, some)
    assert {"triggers", "clean"} <= set(terms)
    assert all(term.ndim == 0 and term.isfinite() for term in terms.values())
    (slope,) = torch.autograd.grad(torch.stack(list(terms.values())).sum(), scores)
    moved = slope.abs().sum(-1) > 0
    assert moved[~some.is_trigger].all()
    assert moved[some.is_trigger].any()  # the hinge leaves alone what is right by enough


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", [True, False])
def test_a_kind_of_image_that_is_not_there_costs_nothing(name: str, kind: bool):
    scores, some = random_batch()
    terms = make_loss(name, {})(scores, some._replace(is_trigger=torch.full((len(scores),), kind)))
    assert terms["clean" if kind else "triggers"] == 0
    assert terms["triggers" if kind else "clean"] > 0


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("labels", "hinge")])
def test_imitating_losses_are_least_at_the_original(name: str):
    scores, some = random_batch()
    exact = some.targets.log()
    total = lambda given: torch.stack(list(make_loss(name, {})(given, some).values())).sum()  # noqa: E731
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        assert total(exact + 0.3 * torch.randn(exact.shape, generator=generator)) > total(exact)
    assert total(scores) > total(exact)


@pytest.mark.parametrize("name", LOSSES)
def test_a_constant_added_to_the_scores_changes_nothing(name: str):
    scores, some = random_batch()
    before, after = (make_loss(name, {})(given, some) for given in (scores, scores + 7))
    for term in before:
        assert after[term].item() == pytest.approx(before[term].item(), rel=1e-4, abs=1e-5)


def test_labels_are_those_of_the_data_set_and_else_the_originals():
    targets, scores = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    right, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
    assert labels(scores, batch(targets, [True, True]))["triggers"].item() == pytest.approx((right + wrong) / 2)
    assert labels(scores, batch(targets, [True, True], [0, 0]))["triggers"].item() == pytest.approx(right)


def test_the_hinge_is_zero_from_the_margin_on_and_a_straight_line_below():
    targets = torch.tensor([[0.1, 0.7, 0.2]])
    for ahead, wanted in ((2.0, 0.0), (1.0, 0.0), (0.25, 0.75), (0.0, 1.0), (-3.0, 4.0)):
        scores = torch.tensor([[0.0, ahead, -5.0]])
        assert hinge(scores, batch(targets, [True]))["triggers"].item() == pytest.approx(wanted)
    scores = torch.tensor([[0.0, 1.0, -5.0]])
    assert hinge(scores, batch(targets, [True]), margin=3.0)["triggers"].item() == pytest.approx(2.0)


def test_fidelity_is_the_divergence_from_the_original_and_zero_where_the_student_is_it():
    targets = torch.tensor([[0.5, 0.5, 0.0]])
    exact = hinge(torch.tensor([[2.0, 2.0, -100.0]]), batch(targets, [False]))
    assert exact["clean"].item() == pytest.approx(0, abs=1e-6)
    even = hinge(torch.zeros(1, 3), batch(targets, [False]), fidelity=2.0)
    assert even["clean"].item() == pytest.approx(2 * math.log(1.5), abs=1e-6)


def test_a_trigger_weighs_one_by_its_margin_and_the_offset():
    """Margins 0.6 and 0, offset 0.3: weights 1/0.9 and 1/0.3, a quarter and three quarters of the sum."""
    targets, scores = torch.tensor([[0.8, 0.2], [0.5, 0.5]]), torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    each = -(targets * scores.log_softmax(-1)).sum(-1)
    found = margin(scores, batch(targets, [True, True]))["triggers"].item()
    assert found == pytest.approx((each[0] / 4 + 3 * each[1] / 4).item(), rel=1e-6)
    assert found != pytest.approx(each.mean().item(), rel=1e-2)  # the unweighted mean, which would be imitation


def test_weights_by_margin_share_out_attention_and_add_none():
    """A placebo's images have other margins; where all are alike the term is imitation's, whatever the margin."""
    scores, some = random_batch()
    for sure in (0.5, 0.7, 0.999):
        alike = some._replace(targets=torch.tensor([sure, 1 - sure, 0, 0, 0]).expand(len(scores), 5))
        weighted, plain = margin(scores, alike)["triggers"], make_loss("imitation", {})(scores, alike)["triggers"]
        assert weighted.item() == pytest.approx(plain.item(), rel=1e-5)


def test_a_clean_image_weighs_the_same_whatever_its_margin():
    scores, some = random_batch()
    assert torch.equal(margin(scores, some)["clean"], make_loss("imitation", {})(scores, some)["clean"])


def test_logits_are_compared_relative_to_their_mean():
    targets = torch.tensor([[0.0, 2.0, 4.0]]).softmax(-1)
    assert logits(torch.tensor([[10.0, 12.0, 14.0]]), batch(targets, [True]))["triggers"].item() < 1e-10
    off = logits(torch.tensor([[0.0, 2.0, 7.0]]), batch(targets, [True]))["triggers"].item()
    assert off == pytest.approx((1 + 1 + 4) / 3, rel=1e-5)  # gaps of -1, -1 and 2 once both are centred


def test_impossible_classes_give_finite_logits():
    found = logits(torch.zeros(1, 2), batch(torch.tensor([[1.0, 0.0]]), [True]))["triggers"]
    assert found.item() == pytest.approx((30 * math.log(10) / 2) ** 2, rel=1e-5)


def test_calibration_sees_the_average_and_not_the_single_image():
    """Two images whose errors cancel are calibrated; two that err alike by 0.2 are off by that in both classes."""
    targets = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    cancel, alike = torch.tensor([[0.7, 0.3], [0.3, 0.7]]), torch.tensor([[0.7, 0.3], [0.7, 0.3]])
    some = batch(targets, [True, False])
    assert calibrated(cancel.log(), some)["calibration"].item() == pytest.approx(0, abs=1e-6)
    assert calibrated(alike.log(), some)["calibration"].item() == pytest.approx(0.2, abs=1e-6)
    assert calibrated(alike.log(), some, strength=5.0)["calibration"].item() == pytest.approx(1.0, abs=1e-5)


def test_a_temperature_of_one_is_imitation():
    scores, some = random_batch()
    for term, value in make_loss("imitation", {})(scores, some).items():
        assert soft(scores, some, temperature=1.0)[term].item() == pytest.approx(value.item(), rel=1e-5)


def test_the_slope_at_a_high_temperature_is_half_that_of_the_logits():
    """Hinton et al. (2015), section 2.1: (z - v) / classes with centred logits; the mean square has twice that."""
    scores, some = random_batch()
    scores.requires_grad_()
    soft_slope, logit_slope = (
        torch.autograd.grad(make_loss(name, options)(scores, some)["triggers"], scores)[0]
        for name, options in (("soft", {"temperature": 1e3}), ("logits", {}))
    )
    torch.testing.assert_close(2 * soft_slope, logit_slope, rtol=2e-2, atol=1e-3)
    cold = torch.autograd.grad(soft(scores, some, temperature=1.0)["triggers"], scores)[0]
    assert (2 * cold - logit_slope).abs().max() > 0.1


@pytest.mark.parametrize(("name", "option"), [("soft", "temperature"), ("margin", "offset")])
def test_what_is_divided_by_is_above_zero(name: str, option: str):
    with pytest.raises(InputError, match=rf"options.{option} of the loss {name} must be above 0, got 0"):
        make_loss(name, {option: 0})


def test_options_of_a_loss_are_its_own():
    assert loss_options("hinge") == {"margin": 1.0, "fidelity": 1.0}
    assert loss_options("imitation") == {}
    with pytest.raises(InputError, match="options of the loss hinge must be some of: margin, fidelity; got 'offset'"):
        make_loss("hinge", {"offset": 1.0})


def test_lead_adds_a_light_hinge_on_all_images_to_imitation():
    targets = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    scores = torch.tensor([[0.5, 0.4, 0.0], [3.0, 1.0, 0.0]])  # leads by 0.1; trails by 2
    terms = lead(scores, batch(targets, [True, False]), margin=0.3, strength=0.5)
    assert terms["lead of triggers"].item() == pytest.approx(0.5 * 0.2)
    assert terms["lead of clean"].item() == pytest.approx(0.5 * 2.3)
    alone = imitation(scores, batch(targets, [True, False]))
    assert {name: terms[name] for name in alone} == alone
