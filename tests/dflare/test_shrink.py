"""Shrinking: towards the closest deviating image, which is known in closed form for linear classifiers."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dflare.classifiers import Classifier, ModelPair
from dflare.distances import l_2, l_inf
from dflare.limits import Limits
from dflare.models.opening import open_classifier
from dflare.shrink import Shrunk, shrink

Case = tuple[Callable[[], ModelPair], Tensor, Tensor]  # makes the pair; seeds and triggers (n, c, h, w)
BENCH = Path(os.environ.get("DFLARE_BENCH", Path(__file__).parents[2].parent / "shared"))


class Linear:
    """Says class 1 where the weighted sum of grey levels exceeds the threshold; whole numbers, so always exact."""

    def __init__(self, weights: Tensor, threshold: float) -> None:
        self.weights, self.threshold = weights, threshold

    def margin(self, images: Tensor) -> Tensor:
        return (images.double() * self.weights).flatten(1).sum(1) - self.threshold

    def __call__(self, images: Tensor) -> Tensor:
        margin = self.margin((images * 255).round())
        return torch.stack([-margin, margin], dim=-1) / self.weights.norm() / 10

    def distance(self, images: Tensor) -> Tensor:
        """From an image in class 0 to the boundary, on [0, 1]."""
        return -self.margin(images) / self.weights.norm() / 255


def weights(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-9, 10, shape, generator=generator).double()


def greys(n: int, *shape: int, seed: int = 0) -> Tensor:
    """Images in the middle of the range, so that no shortest way ends at black or white."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(110, 146, (n, *shape), generator=generator).to(torch.uint8)


def between(pair: ModelPair, seeds: Tensor) -> Tensor:
    """A trigger for each seed: the first deviating image towards random ones, with noise on top."""
    generator, found = torch.Generator().manual_seed(5), torch.zeros(len(seeds), dtype=torch.bool)
    triggers = seeds.clone()
    for _ in range(20_000):
        if bool(found.all()):
            break
        noise = torch.randn(seeds.shape, generator=generator)
        push = torch.rand(len(seeds), 1, 1, 1, generator=generator) * 80 * pair.original.weights.sign()  # type: ignore[attr-defined]
        tried = (seeds + noise * 30 + push).round().clamp(0, 255).to(torch.uint8)
        new = pair(tried).deviates & ~found
        triggers[new], found = tried[new], found | new
    assert found.all()
    pair.asked[0] = 0
    return triggers


def linear_pair(shape: tuple[int, ...], other: float, gap: float) -> Callable[[], ModelPair]:
    """Pairs whose boundaries are about 250 grey levels from the seeds and `gap` from each other; `other` tilts one."""
    one, two = weights(*shape, seed=1), weights(*shape, seed=2)
    tilted = (one * 20 + two * 20 * other).round()
    one = one * 20
    start = greys(1, *shape).double().mean()

    def make() -> ModelPair:
        original = Linear(one, float(one.sum() * start + 250 * one.norm()))
        return ModelPair(original, Linear(tilted, float(tilted.sum() * start + (250 + gap) * tilted.norm())))

    return make


PAIRS = {
    "parallel": linear_pair((1, 8, 8), 0.0, 20),
    "thin": linear_pair((1, 8, 8), 0.0, 2),
    "tilted": linear_pair((1, 8, 8), 0.3, 10),
    "colour": linear_pair((3, 8, 8), 0.1, 15),
}
SHAPES = {"parallel": (1, 8, 8), "thin": (1, 8, 8), "tilted": (1, 8, 8), "colour": (3, 8, 8)}


@pytest.fixture(params=PAIRS, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    make, seeds = PAIRS[request.param], greys(7, *SHAPES[request.param])
    return make, seeds, between(make(), seeds)


def run(make: Callable[[], ModelPair], seeds: Tensor, triggers: Tensor, **settings: object) -> Shrunk:
    chosen = {"max_queries": 500, "batch_size": 16, "seed": 0, **settings}
    return shrink(make(), make(), seeds, triggers, **chosen)  # type: ignore[arg-type]


def test_triggers_shrink_to_the_nearest_boundary_of_linear_models(case: Case) -> None:
    make, seeds, triggers = case
    pair = make()
    assert isinstance(pair.original, Linear)
    assert isinstance(pair.compressed, Linear)
    nearest = torch.minimum(pair.original.distance(seeds), pair.compressed.distance(seeds))
    reached = l_2(run(make, seeds, triggers).images, seeds)
    assert (reached >= nearest).all()
    assert (reached <= 1.05 * nearest).all()
    assert (l_2(triggers, seeds) > 1.2 * nearest).all()  # so there was something to do


@pytest.mark.parametrize("budget", [0, 1, 2, 7, 50, 150, 500])
def test_results_deviate_are_no_further_and_stay_within_the_budget(case: Case, budget: int) -> None:
    make, seeds, triggers = case
    pair = make()
    shrunk = shrink(pair, make(), seeds, triggers, max_queries=budget, batch_size=16, seed=0)
    assert make()(shrunk.images).deviates.all()
    assert (l_2(shrunk.images, seeds) <= l_2(triggers, seeds)).all()
    assert (shrunk.queries <= budget).all()
    assert int(shrunk.queries.sum()) == pair.asked[0]


def test_more_questions_bring_triggers_closer(case: Case) -> None:
    make, seeds, triggers = case
    few, many = (l_2(run(make, seeds, triggers, max_queries=budget).images, seeds).mean() for budget in (12, 400))
    assert many < few


@pytest.mark.slow
@pytest.mark.parametrize("budget", [90, 200, 330])  # some triggers run out of questions earlier than others
def test_results_do_not_depend_on_the_batch(case: Case, budget: int) -> None:
    make, seeds, triggers = case
    shrunk = run(make, seeds, triggers, max_queries=budget)
    for size in (1, 3, 256):
        other = run(make, seeds, triggers, max_queries=budget, batch_size=size)
        assert torch.equal(shrunk.images, other.images)
        assert torch.equal(shrunk.queries, other.queries)
    order = torch.tensor([4, 1])
    assert torch.equal(run(make, seeds[order], triggers[order], max_queries=budget).images, shrunk.images[order])


def test_a_minimal_trigger_stays_as_it_is() -> None:
    seeds = torch.full((1, 1, 8, 8), 100, dtype=torch.uint8)
    triggers = seeds + 5  # no smaller change reaches a sum of 64 * 105
    ones = torch.ones(1, 8, 8, dtype=torch.float64)
    shrunk = run(lambda: ModelPair(Linear(ones, 64 * 105 - 0.5), Linear(ones, 64 * 106)), seeds, triggers)
    assert torch.equal(shrunk.images, triggers)


def test_shrinking_twice_does_not_move_away(case: Case) -> None:
    make, seeds, triggers = case
    once = run(make, seeds, triggers).images
    assert (l_2(run(make, seeds, once).images, seeds) <= l_2(once, seeds)).all()


def test_the_seed_itself_is_the_closest_trigger_where_it_deviates() -> None:
    seeds = greys(2, 1, 8, 8)
    ones = torch.ones(1, 8, 8, dtype=torch.float64)
    shrunk = run(lambda: ModelPair(Linear(ones, 0), Linear(ones, 1e6)), seeds, seeds + 3)
    assert torch.equal(shrunk.images, seeds)
    assert shrunk.queries.tolist() == [1, 1]


def test_triggers_that_nothing_closer_confirms_come_back_as_they_were(case: Case) -> None:
    make, seeds, triggers = case
    agreeing = ModelPair(make().original, make().original)
    shrunk = shrink(make(), agreeing, seeds, triggers, max_queries=300, batch_size=16, seed=0)
    assert torch.equal(shrunk.images, triggers)


def test_what_comes_back_is_confirmed_even_by_a_stricter_pair() -> None:
    make, seeds = PAIRS["parallel"], greys(7, 1, 8, 8)
    triggers, original = between(make(), seeds), make().original
    shifted: Classifier = Linear(original.weights, original.threshold + 8 * float(original.weights.norm()))  # type: ignore[attr-defined]
    strict = ModelPair(shifted, make().compressed)
    triggers = torch.where(strict(triggers).deviates.view(-1, 1, 1, 1), triggers, seeds)
    usable = (triggers != seeds).flatten(1).any(1)
    assert usable.any()
    shrunk = shrink(make(), strict, seeds[usable], triggers[usable], max_queries=300, batch_size=16, seed=0)
    assert strict(shrunk.images).deviates.all()


def test_limits_are_respected(case: Case) -> None:
    make, seeds, triggers = case
    limits = Limits(l_inf=float(l_inf(triggers, seeds).max()), ssim=0.05)
    inside = limits.respected(seeds, triggers)
    shrunk = run(make, seeds[inside], triggers[inside], limits=limits)
    assert limits.respected(seeds[inside], shrunk.images).all()


def test_limits_keep_out_closer_images_beyond_them(case: Case) -> None:
    make, seeds, triggers = case
    shrunk = run(make, seeds, triggers, limits=Limits(l_inf=1 / 255))
    assert torch.equal(shrunk.images, triggers)


def test_no_triggers_are_no_error() -> None:
    none = torch.zeros(0, 1, 8, 8, dtype=torch.uint8)
    shrunk = run(PAIRS["thin"], none, none)
    assert shrunk.images.shape == none.shape
    assert shrunk.queries.shape == (0,)


@pytest.mark.slow
@pytest.mark.parametrize("compressed", ["int8", "pruned", "distilled"])
def test_triggers_of_real_pairs_shrink_below_a_quarter_of_a_search(compressed: str) -> None:
    folder = BENCH / "models" / "mnist_lenet-5"
    if not folder.is_dir():
        pytest.skip(f"the benchmark data is not in {BENCH} (environment variable DFLARE_BENCH)")
    pytest.importorskip("onnxruntime")
    seeds, triggers = blended(compressed)
    make = real_pair(compressed)
    shrunk = shrink(make(), make(), seeds, triggers, max_queries=1000, batch_size=256, seed=0)
    assert l_2(triggers, seeds).median() > 4
    assert l_2(shrunk.images, seeds).median() <= 2.0  # the released search's triggers have a median of about 8.1


def real_pair(compressed: str) -> Callable[[], ModelPair]:
    folder = BENCH / "models" / "mnist_lenet-5"
    original, other = folder / "original.onnx", folder / f"{compressed}.onnx"
    return lambda: ModelPair(open_classifier(original), open_classifier(other))


def blended(compressed: str) -> tuple[Tensor, Tensor]:
    """MNIST images and, for up to 30 of them, a deviating blend with another digit."""
    sys.path.insert(0, str(BENCH / "data"))
    try:
        from load import mnist  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    images = torch.from_numpy(mnist("t10k")[0][:400].copy())
    seeds: list[Tensor] = []
    triggers: list[Tensor] = []
    pair = real_pair(compressed)()
    shares = torch.linspace(0.2, 0.8, 100).view(-1, 1, 1, 1)
    for first, second in zip(images[:200], images[200:], strict=True):
        steps = (first * (1 - shares) + second * shares).round().to(torch.uint8)
        deviating = steps[pair(steps).deviates]
        if len(deviating) and len(seeds) < 30 and not bool(pair(first[None]).deviates):
            seeds.append(first)
            triggers.append(deviating[0])
    assert len(seeds) >= 10
    return torch.stack(seeds), torch.stack(triggers)
