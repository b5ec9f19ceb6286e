"""One weight of a network is wrong: it is named first, given another value, and what was right stays right."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from repair.compression import Pruned, Quantized
from repair.search_based import arachne as arachnes
from repair.search_based import neurecover as neurecovers
from repair.search_based.arachne import arachne, locate, places_of
from repair.search_based.candidates import Candidates, margins
from repair.search_based.neurecover import CONSTRICTED, History, neurecover
from repair.search_based.retraining import set_weights
from repair.search_based.sample import Sample, agrees
from repair.search_based.single_weights import Place, SingleWeights, can_move
from repair.search_based.swarm import Evolution
from tests.repair.search_based.planted import PIXELS, Hidden, Linear, opened, parted, shown

WRONG = Place("program.fc.weight", (0, 4))
"""A pixel of the third class that counts for the first one."""


@pytest.fixture
def case(tmp_path: Path):
    """The network with the wrong weight opened for repair, the images where it shows, and the others."""
    network = Linear()
    with torch.no_grad():
        network.fc.weight[WRONG.index[0], WRONG.index[1]] = 1.5
    trainable = opened(network, tmp_path / "model.pt2")
    negative, positive = parted(trainable, shown(Linear(), 300, 0))
    return trainable, Sample(negative, positive)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_arachne_names_the_wrong_weight(case, monkeypatch):
    monkeypatch.setattr(arachnes, "LEAST", 1)
    assert WRONG in locate(*case)[:2]


def test_neurecover_names_the_weight_that_changed(case):
    trainable, sample = case
    before = {WRONG.parameter: Linear().fc.weight.detach()}
    assert neurecovers.locate(trainable, sample, History(sample.negative, sample.positive, before)) == [WRONG]


def test_a_weight_that_matters_for_what_improved_is_spared(case):
    trainable, sample = case
    before = {WRONG.parameter: Linear().fc.weight.detach()}
    same = History(sample.negative, sample.negative, before)
    assert neurecovers.locate(trainable, sample, same) == []


@pytest.mark.parametrize("method", ["arachne", "neurecover"])
def test_the_wrong_weight_is_mended(case, method):
    trainable, sample = case
    if method == "arachne":
        search = arachne(trainable, sample, 15, generator(), [WRONG], Evolution(members=20))
    else:
        history = History(sample.negative, sample.positive, {})
        search = neurecover(trainable, sample, 15, generator(), history, [WRONG], replace(CONSTRICTED, particles=20))
    *_, weights = search.weights
    set_weights(trainable, weights)
    assert search.moves == ("program.fc.weight[0,4]",)
    fresh = shown(Linear(), 300, 1)
    assert agrees(trainable, fresh).float().mean() > 0.95
    moved = (weights[WRONG.parameter] != Linear().fc.weight).nonzero().tolist()
    assert moved == [list(WRONG.index)]


def test_what_is_right_already_stays_as_it_is(tmp_path):
    trainable = opened(Linear(), tmp_path / "model.pt2")
    good = shown(Linear(), 100, 0)
    search = neurecover(trainable, Sample(good, good), 3, generator(), History(good, good, {}), [])
    assert list(search.weights) == [{}]


def test_the_first_weights_are_those_that_came_in(case):
    trainable, sample = case
    first = next(arachne(trainable, sample, 1, generator(), [WRONG], Evolution(members=4)).weights)
    assert set(first) == {WRONG.parameter}
    start = SingleWeights(trainable, [WRONG]).weights(torch.zeros(1, 1))[WRONG.parameter][0]
    assert torch.equal(start, trainable.module.get_parameter(WRONG.parameter))


def test_fitness_is_as_published():
    negative, positive = torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0]])
    assert arachnes.fitness(negative, positive).tolist() == [13, 21]
    found = neurecovers.fitness(torch.zeros(1, 4), torch.full((1, 2), 100.0))
    assert float(found) == pytest.approx(1 / (1 + torch.tensor(2.0).log()) + 2)  # log(1 + e^0), none fixed; all kept


def test_a_constant_network_agrees_with_nothing():
    assert not (margins(torch.zeros(5, 3), torch.tensor([0, 1, 2, 0, 1])) > 0).any()


def test_names_lead_back_to_places():
    assert Place.of(WRONG.name) == WRONG
    assert places_of([("a", torch.Size([2])), ("b", torch.Size([2, 3]))], torch.tensor([1, 5, 7])) == [
        Place("a", (1,)), Place("b", (1, 0)), Place("b", (1, 2))
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"as in fc\.weight"):
        Place.of("fc.weight")


def test_what_the_compression_holds_does_not_move(case):
    trainable, _ = case
    weight = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    held = replace(trainable, plan={"a": Pruned(weight != 0)})
    assert can_move(held, {"a": weight, "b": weight})["a"].tolist() == [[True, False], [True, True]]
    assert can_move(held, {"b": weight})["b"].all()


def test_candidates_together_answer_as_one_by_one_behind_the_beginning_that_is_run_once(tmp_path):
    trainable = opened(Hidden(), tmp_path / "model.pt2")
    given = shown(Hidden(), 30, 0)
    candidates = Candidates(trainable, ["program.fc.weight"], given.images)
    known = candidates.known(given)
    assert candidates.batched
    assert known.values.shape == (30, PIXELS)
    weights = {"program.fc.weight": torch.randn(5, 3, PIXELS, generator=generator())}
    together = candidates.scores(known, weights)
    assert together.shape == (5, 30, 3)
    candidates.batched = False
    assert torch.allclose(candidates.scores(known, weights), together, atol=1e-5)
    with torch.no_grad():
        for weight, scores in zip(weights["program.fc.weight"], together, strict=True):
            set_weights(trainable, {"program.fc.weight": trainable.plan["program.fc.weight"](weight)})  # zeros stay
            assert torch.allclose(trainable.module(given.images / 255), scores, atol=1e-5)


def test_what_is_judged_is_the_projected_model(tmp_path):
    trainable = opened(Linear(), tmp_path / "model.pt2")
    grid = Quantized(torch.tensor(0.5), torch.tensor(0.0), -2, 2)
    held = replace(trainable, plan={"program.fc.weight": grid})
    given = shown(Linear(), 10, 0)
    candidates = Candidates(held, ["program.fc.weight"], given.images)
    weights = {"program.fc.weight": torch.tensor([0.6, 5.0])[:, None, None].expand(2, 3, PIXELS)}
    assert candidates.projected(weights)["program.fc.weight"][:, 0, 0].tolist() == [0.5, 1.0]
    scores = candidates.scores(candidates.known(given), weights)
    assert torch.allclose(2 * scores[0], scores[1], atol=1e-5)
