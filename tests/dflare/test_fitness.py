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
    accepted = accept(candidate, current)
    assert accepted.dtype == torch.bool
    assert accepted.tolist() == expected
