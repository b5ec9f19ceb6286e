import torch

from dflare import novelty, ragged


def test_distances_equal_brute_force_over_growing_lists():
    generator = torch.Generator().manual_seed(0)
    seen, book = ragged.empty(5, 6, dtype=torch.float32), [[] for _ in range(5)]
    for _ in range(60):
        states = torch.rand(5, 6, generator=generator)
        distance = novelty.distance(seen, states)
        for row in range(5):
            expected = min((float((old - states[row]).square().sum()) for old in book[row]), default=float("inf"))
            assert abs(float(distance[row]) - expected) < 1e-6 or expected == float("inf") == float(distance[row])
        novel = distance > novelty.THRESHOLD
        seen = seen.append(states, novel)
        for row in novel.nonzero().flatten().tolist():
            book[row].append(states[row])
    assert seen.count.tolist() == [len(written) for written in book]
    assert seen.count.amax() > 8  # so the lists have grown beyond their first capacity


def test_a_chain_knows_only_what_it_has_seen_itself():
    states = torch.eye(2)
    seen = ragged.empty(2, 2, dtype=torch.float32).append(states, torch.tensor([True, True]))
    assert novelty.distance(seen, states).tolist() == [0, 0]
    assert novelty.distance(seen, states.flip(0)).tolist() == [2, 2]  # one-hot vectors apart, squared


def test_what_lies_behind_the_end_of_a_list_is_not_near():
    seen = ragged.empty(1, 2, dtype=torch.float32)  # zeros behind the end
    assert novelty.distance(seen, torch.zeros(1, 2)).tolist() == [float("inf")]


def test_a_distance_of_exactly_the_threshold_is_not_novel():
    seen = ragged.empty(1, 2, dtype=torch.float32).append(torch.zeros(1, 2), torch.tensor([True]))
    assert not (novelty.distance(seen, torch.tensor([[0.5, 0.5]])) > novelty.THRESHOLD).any()
