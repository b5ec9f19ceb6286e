"""Gradient ascent on models whose best images are known in closed form."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dflare.chain import ChainState, replay
from dflare.classifiers import ModelPair, Outputs
from dflare.errors import InputError
from dflare.gradient import EPS, STEPS, Gradient, differentiable, radius
from dflare.limits import Limits
from dflare.search import Ending, Search
from dflare.seeds import Seeds
from dflare.strategies import STRATEGIES, make_kernel

WEIGHT = torch.tensor([1.0, -2.0, 0.5, -0.25]).repeat(4).view(1, 1, 4, 4)


class Linear:
    """Scores (margin, -margin) with margin = scale * weight . image + bias."""

    def __init__(self, scale: float, bias: float = 0.0) -> None:
        self.scale, self.bias = scale, bias

    def __call__(self, images: Tensor) -> Tensor:
        margin = self.scale * (images * WEIGHT).sum((1, 2, 3)) + self.bias
        return torch.stack([margin, -margin], dim=-1)


AGREED = Outputs(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
GREYS = torch.tensor([0, 3, 100, 252, 255, 128, 128, 128] * 2, dtype=torch.uint8).view(1, 1, 4, 4)


def started(kernel: Gradient, image: Tensor = GREYS) -> ChainState:
    return kernel.init(0, torch.arange(len(image)), image, AGREED)


def moved(kernel: Gradient, state: ChainState, steps: int) -> ChainState:
    """The chains after so many candidates on which the models agree."""
    for _ in range(steps):
        candidates, choice = kernel.propose(0, state)
        outputs = Outputs(*[scores.expand(len(state), 2) for scores in AGREED])
        state, _ = kernel.update(state, candidates, choice, outputs)
    return state


def corner(direction: Tensor, eps: int, image: Tensor = GREYS) -> Tensor:
    """The furthest image of the ball in a direction."""
    return (image.long() + eps * direction.sign().long()).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize(
    ("original", "compressed", "up"), [(0.0, 1.0, -1), (1.0, 0.0, 1), (1.0, 0.1, 1), (0.1, 1.0, -1)]
)
def test_the_ascent_reaches_the_corner_where_the_original_is_surest_and_the_compressed_model_least(
    original, compressed, up
):
    """The gradient is a multiple of the weights; exchanging the models, or the sign, leads to the opposite corner."""
    gradients = differentiable(Linear(original), Linear(compressed))
    state = moved(Gradient(gradients, eps=8), started(Gradient(gradients)), 8)
    assert torch.equal(state.images, corner(up * WEIGHT, 8))
    assert not torch.equal(state.images, corner(-up * WEIGHT, 8))
    again = moved(Gradient(gradients, eps=8), state, 5)
    assert torch.equal(again.images, state.images)  # and goes no further


def test_every_step_moves_every_value_by_whole_grey_levels():
    kernel = Gradient(differentiable(Linear(0.0), Linear(1.0)))
    assert kernel.step == 1
    state = moved(kernel, started(kernel), 3)
    assert torch.equal(state.images, corner(-WEIGHT, 3))


@pytest.mark.parametrize(("eps", "step"), [(1, 1), (8, 1), (9, 2), (16, 2), (80, 10)])
def test_steps_are_rounded_up_and_reach_every_point_of_the_ball(eps, step):
    kernel = Gradient(differentiable(Linear(0.0), Linear(1.0)), eps)
    assert kernel.step == step
    assert kernel.step * STEPS >= 2 * eps


@pytest.mark.parametrize(("limit", "eps"), [(None, EPS), (1 / 255, 1), (0.1, 25), (8 / 255, 8)])
def test_the_ball_is_the_limit_in_whole_grey_levels(limit, eps):
    assert radius(limit) == eps
    kernel = make_kernel("gradient", gradients=differentiable(Linear(0.0), Linear(1.0)), max_l_inf=limit)
    assert kernel.eps == eps


def test_gradients_are_the_slopes_of_the_objective_with_its_weight():
    original, compressed, c = Linear(0.3, 0.2), Linear(1.1, -0.4), 0.7
    image = GREYS.repeat(2, 1, 1, 1)
    labels = torch.tensor([0, 1])
    slopes = differentiable(original, compressed, c)(image, labels)

    def objective(pixels: Tensor) -> Tensor:
        chances = [model(pixels).double().softmax(-1) for model in (original, compressed)]
        return torch.stack([(chances[0] - c * chances[1])[row, label] for row, label in enumerate(labels)])

    width, pixels = 1e-3, image.double() / 255
    for place in range(4):
        there = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
        there[0, 0, 0, place] = width
        expected = (objective(pixels + there) - objective(pixels - there)) / (2 * width)
        torch.testing.assert_close(slopes[:, 0, 0, place].double(), expected, rtol=1e-3, atol=1e-6)


def test_slopes_do_not_vanish_where_a_model_is_sure():
    slopes = differentiable(Linear(0.0, 1.0), Linear(0.01, 20.0))(GREYS, torch.tensor([0]))
    assert torch.equal(slopes.sign(), -WEIGHT.sign())  # 1 - p is 4e-18 there, nothing in float32


def test_an_ascent_that_found_nothing_starts_again_from_random_images_of_the_ball():
    kernel = Gradient(differentiable(Linear(0.0), Linear(1.0)), eps=4)
    images = torch.full((500, 1, 4, 4), 128, dtype=torch.uint8)
    state = kernel.init(0, torch.arange(500), images, Outputs(*[scores.expand(500, 2) for scores in AGREED]))
    state = moved(kernel, state, STEPS)
    candidates, choice = kernel.propose(0, state)
    assert not choice.any()
    counts = torch.bincount(candidates.long().flatten() - 124, minlength=9)
    assert len(counts) == 9
    assert (counts - 8000 / 9).abs().max() < 4.5 * (8000 / 9) ** 0.5
    state = moved(kernel, state, 2)
    assert state.memory.taken.tolist() == [1] * 500
    assert state.queries.tolist() == [2 * STEPS + 1 + 2] * 500  # a step asks for its gradient too
    assert state.step.tolist() == [STEPS + 2] * 500


def test_candidates_keep_to_the_limits():
    limits = Limits(l_inf=8 / 255, l_2=0.05)
    kernel = Gradient(differentiable(Linear(0.0), Linear(1.0)), hold=limits.hold)
    state = started(kernel)
    for _ in range(2 * STEPS):
        state = moved(kernel, state, 1)
        assert limits.respected(GREYS, state.images).all()


def test_two_equal_models_give_no_trigger_and_their_gradients_no_direction():
    kernel = Gradient(differentiable(Linear(1.0), Linear(1.0)))
    assert torch.equal(moved(kernel, started(kernel), STEPS).images, GREYS)
    pair = ModelPair(Linear(1.0), Linear(1.0))
    (ended,) = Search(kernel, pair, pair, 0, max_queries=99).run([Seeds(GREYS, torch.tensor([5]))])
    assert ended.ending is Ending.exhausted


def test_a_deviation_is_found_as_soon_as_the_ball_reaches_it_and_not_before():
    """The compressed margin falls by 4 * 3.75 / 255 a step; the original stays sure of class 0."""
    bias = float(-(GREYS / 255 * WEIGHT).sum())
    for steps in (3, 7):
        fall = sum(float(((GREYS - corner(-WEIGHT, k).float()) / 255 * WEIGHT).sum()) for k in (steps - 1, steps)) / 2
        pair = ModelPair(Linear(0.0, 9.0), Linear(1.0, bias + fall))
        kernel = Gradient(differentiable(pair.original, pair.compressed), eps=7)
        (ended,) = Search(kernel, pair, pair, 0, max_queries=100).run([Seeds(GREYS, torch.tensor([5]))])
        assert ended.ending is Ending.deviated
        assert ended.chains.queries.tolist() == [2 * steps]
        assert torch.equal(ended.chains.images, corner(-WEIGHT, steps))
        small = replace(kernel, eps=steps - 1)
        (ended,) = Search(small, pair, pair, 0, max_queries=100).run([Seeds(GREYS, torch.tensor([5]))])
        assert ended.ending is Ending.exhausted


def test_replay_makes_every_image_again_from_its_seed(toy_pair, toy_gradients, noise_seeds):
    kernel = make_kernel("gradient", gradients=toy_gradients)
    for ended in Search(kernel, toy_pair(), toy_pair(), 3, max_queries=50, batch_size=16).run([noise_seeds(24, 250)]):
        chains = ended.chains
        assert torch.equal(replay(kernel, 3, chains.seed, chains.origin, chains.path.lists()), chains.images)


def test_gradients_may_be_asked_for_while_nothing_is_recorded():
    with torch.inference_mode():
        slopes = differentiable(Linear(0.0), Linear(1.0))(GREYS.clone(), torch.tensor([0]))
    assert torch.equal(slopes.sign(), -WEIGHT.sign())


def test_a_strategy_without_gradients_says_what_to_use_instead():
    assert STRATEGIES["gradient"].gradients
    with pytest.raises(InputError, match=r"gradient needs gradients of both models.*search\.strategy=boundary"):
        make_kernel("gradient")


def test_models_without_gradients_are_refused_by_name():
    def closed(images: Tensor) -> Tensor:
        return Linear(1.0)(images.detach())

    for pair, name in (((closed, Linear(1.0)), "original"), ((Linear(1.0), closed), "compressed")):
        with pytest.raises(InputError, match=f"two differentiable models, the {name} one has no gradient"):
            differentiable(*pair)(GREYS, torch.tensor([0]))


def test_gradients_that_are_not_numbers_are_refused():
    def broken(images: Tensor) -> Tensor:
        return Linear(1.0)(images) + (images * 0).sqrt().sum((1, 2, 3))[:, None] * torch.tensor([0.0, 1.0])

    with pytest.raises(InputError, match="gradients that are numbers"):
        differentiable(Linear(1.0), broken)(GREYS, torch.tensor([0]))


def test_an_empty_ball_is_refused():
    with pytest.raises(InputError, match="at least one grey level, got eps = 0"):
        Gradient(differentiable(Linear(0.0), Linear(1.0)), eps=0)
