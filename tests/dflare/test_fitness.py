import pytest
import torch

from dflare import fitness
from dflare.classifiers import Outputs

P = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
Q = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.8, 0.2]])
OUTPUTS = Outputs(P.log(), Q.log())
NOVEL = torch.tensor([False, True, True])


def test_fitness_is_the_difference_of_the_top_probabilities_plus_one_for_what_is_new():
    torch.testing.assert_close(fitness.divergence_and_novelty(OUTPUTS, NOVEL), torch.tensor([0.3, 1.3, 1.0]))


def test_divergence_alone_gives_nothing_for_what_is_new():
    torch.testing.assert_close(fitness.divergence(OUTPUTS, NOVEL), torch.tensor([0.3, 0.3, 0.0]))
    assert torch.equal(fitness.divergence(OUTPUTS, NOVEL), fitness.divergence(OUTPUTS, ~NOVEL))


@pytest.mark.parametrize(
    ("accept", "expected"), [(fitness.not_worse, [True, True, False]), (fitness.always, [True, True, True])]
)
def test_acceptance_of_better_equal_and_worse(accept, expected):
    candidate, current = torch.tensor([0.2, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.2])
    accepted = accept(candidate, current, torch.zeros(3, dtype=torch.bool))
    assert accepted.dtype == torch.bool
    assert accepted.tolist() == expected


def test_the_authors_code_accepts_any_change_and_whatever_is_new():
    candidate, bar = torch.tensor([0.2, 0.1, 0.1005, 0.1005]), torch.tensor([0.1, 0.2, 0.1, 0.1])
    novel = torch.tensor([False, False, False, True])
    assert fitness.changed(candidate, bar, novel).tolist() == [True, True, False, True]
    assert fitness.nothing(OUTPUTS, NOVEL).tolist() == [0, 0, 0]


def test_closeness_is_minus_the_smaller_score_margin():
    outputs = Outputs(
        torch.tensor([[5.0, 1.0, 0.0], [2.0, 2.0, 0.0]]), torch.tensor([[3.0, 2.0, 0.0], [0.0, 9.0, 1.0]])
    )
    assert fitness.closeness(outputs, NOVEL[:2]).tolist() == [-1, 0]
