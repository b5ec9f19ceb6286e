"""Orders by name in which tensors get more bits."""

from collections.abc import Mapping

from repair.precision.choice import Choice, by_chance, by_size, greedy, in_order


def orders(numbers: Mapping[str, int], seed: int) -> dict[str, Choice]:
    """`greedy` looks at what each tensor is worth; `size` (most numbers an image first) and `chance` are its controls.

    `numbers` says how many numbers an image each tensor holds, `seed` which order chance brings.
    """
    return {
        "greedy": greedy,
        "size": lambda groups, loss, affordable: in_order(by_size(groups, numbers), affordable),
        "chance": lambda groups, loss, affordable: in_order(by_chance(groups, seed), affordable),
    }
