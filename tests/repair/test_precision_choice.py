"""The order in which tensors get more bits."""

from repair.precision.choice import by_chance, by_size, greedy, in_order


def test_greedy_takes_what_is_worth_most_first():
    worth = {"a": 1.0, "b": 5.0, "c": 3.0}
    order = list(greedy([("a",), ("b",), ("c",)], lambda tensors: -sum(worth[name] for name in tensors)))
    assert order == [{"b"}, {"b", "c"}, {"a", "b", "c"}]


def test_greedy_asks_again_because_worth_depends_on_company():
    def loss(tensors: frozenset[str]) -> float:
        return {(): 9.0, ("a",): 5.0, ("b",): 6.0, ("c",): 7.0, ("a", "b"): 5.0, ("a", "c"): 1.0}.get(
            tuple(sorted(tensors)), 0.0
        )

    assert next(iter(list(greedy([("a",), ("b",), ("c",)], loss))[1:])) == {"a", "c"}


def test_what_cannot_be_afforded_is_passed_over():
    order = list(greedy([("a",), ("b",)], lambda tensors: -len(tensors), lambda tensors: "a" not in tensors))
    assert order == [{"b"}]
    assert list(in_order([("a",), ("b",)], lambda tensors: "a" not in tensors)) == [{"b"}]


def test_orders_by_size_and_by_chance():
    groups = [("a",), ("b", "c"), ("d",)]
    assert by_size(groups, {"a": 3, "b": 2, "c": 2, "d": 9}) == [("d",), ("b", "c"), ("a",)]
    assert by_chance(groups, 1) == by_chance(groups, 1)
    assert len({tuple(by_chance(groups, seed)) for seed in range(50)}) == 6
