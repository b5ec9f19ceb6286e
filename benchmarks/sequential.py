"""DFLARE's released search as its authors run it: one seed after another, one image a question.

Written anew after the behaviour of github.com/yqtianust/DFlare (`test_gen_main.py` and what it uses). It is the
yardstick of speed: the same models through the same runtime with one thread, without batches.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from dflare.classifiers import ModelPair, to_unit
from dflare.seeds import Seeds
from operators import OPERATORS, Operator


class Said(NamedTuple):
    """What both models say of one image."""

    original: np.ndarray  # (classes,) scores or probabilities, from which labels are read
    compressed: np.ndarray  # (classes,)
    joint: np.ndarray  # (2 * classes,) both vectors of probabilities


Ask = Callable[[np.ndarray], Said]
"""One image (height, width, channels) uint8 -> what both models say of it."""

CHANGE = 1e-3  # the released `StateFitnessValue`: any change of the difference beyond this is "better"
NOVELTY = 0.5  # the released `CoveredStates`: squared Euclidean distance to the nearest pair of vectors seen


@dataclass(frozen=True)
class Walk:
    """How the search from one seed ended."""

    seed: int
    queries: int  # candidates asked after the seed; 0 when the labels differ on the seed itself
    trigger: np.ndarray | None  # (height, width, channels) uint8, None when the budget was spent
    tied: bool  # whether the labels of the trigger differ by a tie only, which the released code does not tell apart
    distance: float  # of the trigger to the seed, Euclidean on [0, 1]; 0 without a trigger


@dataclass
class Choice:
    """The released choice of operators: by rank of success, from a rank that its lookup never finds (-1)."""

    operators: list[Operator] = field(default_factory=lambda: list(OPERATORS))
    tried: dict[Operator, int] = field(default_factory=lambda: dict.fromkeys(OPERATORS, 0))
    helped: dict[Operator, int] = field(default_factory=lambda: dict.fromkeys(OPERATORS, 0))

    def draw(self, accepted_before: bool, random: np.random.Generator) -> Operator:
        """The next operator: uniform until something was accepted, then drawn again until a rank k is taken.

        Rank k (0 is best) is taken with probability (1 - 1/7) ** (k + 1).
        """
        count = len(self.operators)
        if not accepted_before:
            return self.operators[random.integers(count)]
        self.operators = [self.operators[place] for place in random.permutation(count)]
        self.operators.sort(key=lambda operator: self.helped[operator] / (self.tried[operator] + 1e-7), reverse=True)
        while True:
            rank = int(random.integers(count))
            if random.random() < (1 - 1 / count) ** (rank + 1):
                return self.operators[rank]


def walk(
    ask: Ask, seed: int, image: np.ndarray, random: np.random.Generator, max_queries: int, untied: bool = False
) -> Walk:
    """Mutate one image (height, width, channels) uint8 until the labels differ or `max_queries` candidates were asked.

    With `untied` a walk goes on where the labels differ by a tie only, as the strategies of this project do.

    A candidate is accepted when the difference of the top-1 probabilities has changed by more than `CHANGE` in either
    direction, or when the pair of probability vectors is new. The bar starts at a difference of 0.
    """
    said = ask(image)
    if _differ(said) and not (untied and _tied(said)):
        return Walk(seed, 0, image, _tied(said), 0.0)
    seen, choice, current, bar, accepted_before = [said.joint], Choice(), image, 0.0, False
    for query in range(1, max_queries + 1):
        operator = choice.draw(accepted_before, random)
        choice.tried[operator] += 1
        candidate = operator(current, random)
        said = ask(candidate)
        if _differ(said) and not (untied and _tied(said)):
            apart = (candidate.astype(np.float64) - image) / 255
            return Walk(seed, query, candidate, _tied(said), float(np.sqrt(np.square(apart).sum())))
        joint = said.joint
        novel = min(float(np.square(joint - known).sum()) for known in seen) > NOVELTY
        if novel:
            seen.append(joint)
        half = len(joint) // 2
        difference = abs(float(joint[:half].max() - joint[half:].max()))
        if novel or abs(difference - bar) > CHANGE:
            choice.helped[operator] += 1
            current, bar, accepted_before = candidate, difference, True
    return Walk(seed, max_queries, None, False, 0.0)


def one_at_a_time(pair: ModelPair) -> Ask:
    """The pair's two classifiers, asked about one image, without the checks that a batch pays once."""

    @torch.inference_mode()
    def ask(image: np.ndarray) -> Said:
        pixels = to_unit(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None])
        original, compressed = pair.original(pixels)[0].numpy(), pair.compressed(pixels)[0].numpy()
        return Said(original, compressed, np.concatenate([softmax(original), softmax(compressed)]))

    return ask


def search(ask: Ask, seeds: Seeds, run_seed: int, max_queries: int, untied: bool = False) -> Iterator[Walk]:
    """One walk a seed, in order; the randomness of each follows from the run's seed and the image's id."""
    images = seeds.images.permute(0, 2, 3, 1).contiguous().numpy()
    for seed, image in zip(seeds.ids.tolist(), images, strict=True):
        yield walk(ask, seed, image, np.random.default_rng([run_seed, seed]), max_queries, untied)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities (classes,) of raw scores (classes,)."""
    odds = np.exp(scores - scores.max())
    return odds / odds.sum()


def _differ(said: Said) -> bool:
    return bool(said.original.argmax() != said.compressed.argmax())


def _tied(said: Said) -> bool:
    tops = [one == one.max() for one in (said.original, said.compressed)]
    return bool((tops[0] & tops[1]).any())
