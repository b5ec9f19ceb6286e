"""The released loop: its choice of operators, its acceptance, and its ends."""

import numpy as np
import pytest
import torch

import sequential
from dflare.classifiers import ModelPair
from dflare.seeds import Seeds, pixel_hash
from memory import BRIGHT, DARK, Linear


def brighter(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return image + np.uint8(1)


@pytest.fixture
def only_brighter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven operators that all add one grey level, so that the level says how many candidates were accepted."""
    same = [lambda image, random: brighter(image, random) for _ in range(7)]
    monkeypatch.setattr(sequential, "OPERATORS", tuple(same))


class Script:
    """Answers by the image's grey level: the probabilities of class 0 in the two models."""

    def __init__(self, *probabilities: tuple[float, float]) -> None:
        self.probabilities = probabilities
        self.levels: list[int] = []

    def __call__(self, image: np.ndarray) -> sequential.Said:
        self.levels.append(int(image[0, 0, 0]))
        first, second = self.probabilities[min(self.levels[-1], len(self.probabilities) - 1)]
        vectors = [np.array([p, 1 - p]) for p in (first, second)]
        return sequential.Said(*vectors, np.concatenate(vectors))


def levels(script: Script, max_queries: int = 4) -> list[int]:
    sequential.walk(script, 0, np.zeros((2, 2, 1), np.uint8), np.random.default_rng(0), max_queries)
    return script.levels


@pytest.mark.usefixtures("only_brighter")
def test_a_change_of_the_difference_is_accepted_in_either_direction() -> None:
    growing_then_falling = Script((0.9, 0.9), (0.9, 0.8), (0.9, 0.85), (0.9, 0.7))
    assert levels(growing_then_falling) == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("only_brighter")
def test_a_difference_that_stays_is_rejected_unless_the_probabilities_are_new() -> None:
    assert levels(Script((0.9, 0.9), (0.9, 0.8995))) == [0, 1, 1, 1, 1]
    far = Script((0.99, 0.99), (0.55, 0.55), (0.55, 0.55))  # squared distance 4 * 0.44^2 = 0.77, difference 0
    assert levels(far) == [0, 1, 2, 2, 2]


@pytest.mark.usefixtures("only_brighter")
def test_the_bar_starts_at_zero_and_not_at_the_seeds_difference() -> None:
    assert levels(Script((0.9, 0.8), (0.9, 0.8), (0.9, 0.8))) == [0, 1, 2, 2, 2]


@pytest.mark.usefixtures("only_brighter")
def test_the_walk_ends_where_the_labels_differ() -> None:
    script = Script((0.9, 0.9), (0.9, 0.8), (0.9, 0.4))
    found = sequential.walk(script, 7, np.zeros((2, 2, 1), np.uint8), np.random.default_rng(0), 10)
    assert (found.seed, found.queries, found.tied) == (7, 2, False)
    assert found.trigger is not None
    assert found.trigger.tolist() == [[[2], [2]], [[2], [2]]]
    assert found.distance == pytest.approx(2 * 2 / 255)  # four pixels, two levels each
    spent = sequential.walk(Script((0.9, 0.9)), 7, np.zeros((2, 2, 1), np.uint8), np.random.default_rng(0), 10)
    assert (spent.queries, spent.trigger) == (10, None)


@pytest.mark.usefixtures("only_brighter")
def test_a_tie_ends_the_walk_unless_ties_do_not_count() -> None:
    image = np.zeros((2, 2, 1), np.uint8)
    script = Script((0.9, 0.9), (0.4, 0.5), (0.3, 0.9))  # at 0.5 both classes are on top, and the first is the label
    ended = sequential.walk(script, 7, image, np.random.default_rng(0), 10)
    assert (ended.queries, ended.tied) == (1, True)
    untied = sequential.walk(script, 7, image, np.random.default_rng(0), 10, untied=True)
    assert (untied.queries, untied.tied) == (2, False)


def rank_shares(choice: sequential.Choice, accepted_before: bool, draws: int = 7000) -> np.ndarray:
    """How often each operator is drawn when the k-th of the table has the k-th best score."""
    random = np.random.default_rng(0)
    table = list(sequential.OPERATORS)
    counts = np.zeros(7)
    for _ in range(draws):
        counts[table.index(choice.draw(accepted_before, random))] += 1
    return counts / draws


def ranked() -> sequential.Choice:
    helped = {operator: 7 - place for place, operator in enumerate(sequential.OPERATORS)}
    return sequential.Choice(tried=dict.fromkeys(sequential.OPERATORS, 10), helped=helped)


def test_after_an_acceptance_ranks_are_drawn_geometrically_and_before_it_uniformly() -> None:
    geometric = (6 / 7) ** np.arange(1, 8)
    geometric /= geometric.sum()
    tolerance = 4 * np.sqrt(0.22 * 0.78 / 7000)  # four standard errors of the largest share
    assert abs(rank_shares(ranked(), True) - geometric).max() < tolerance
    assert abs(rank_shares(ranked(), False) - 1 / 7).max() < tolerance
    assert abs(geometric - 1 / 7).max() > 2 * tolerance, "the law must tell the two apart"


def toy_seeds(count: int) -> Seeds:
    images = torch.randint(0, 240, (count, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Seeds(images, pixel_hash(images))


def test_triggers_lie_where_the_pair_is_known_to_deviate_and_follow_from_the_seed_alone() -> None:
    ask = sequential.one_at_a_time(ModelPair(Linear(BRIGHT), Linear(DARK)))
    seeds = toy_seeds(40)
    walks = list(sequential.search(ask, seeds, 0, 60))
    found = [walk for walk in walks if walk.trigger is not None]
    assert len(found) > 5
    assert all(DARK < int(walk.trigger.sum()) <= BRIGHT for walk in found if walk.trigger is not None)
    backwards = list(sequential.search(ask, seeds.take(torch.arange(39, -1, -1)), 0, 60))[::-1]
    assert [walk.queries for walk in backwards] == [walk.queries for walk in walks]
    assert [walk.queries for walk in sequential.search(ask, seeds, 1, 60)] != [walk.queries for walk in walks]
