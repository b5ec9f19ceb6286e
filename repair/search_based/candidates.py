"""A compressed model as a function of a few of its weights: many candidates for these are judged together."""

import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dflare.classifiers import to_unit
from repair.data import Examples
from repair.prefix import LIMIT, SPLITTERS
from repair.search_based.swarm import population_outputs
from repair.split import Split
from repair.trainable import Trainable

AT_ONCE = 8000
"""Images times candidates of one forward pass of many candidates; it bounds memory."""

CHUNK = 300
"""Images of a forward pass of one candidate: their activations stay in a processor's cache."""

Weights = Mapping[str, Tensor]
"""Parameter name -> its candidates, (candidates, ...)."""


@dataclass(frozen=True)
class Known:
    """Images behind the frozen beginning of the model, with what the original calls them."""

    values: Tensor  # (n, k) float32 activations; where nothing is frozen the images, (n, c, h, w) uint8
    right: Tensor  # (n,) int64

    def __len__(self) -> int:
        return len(self.right)


class Candidates:
    """The model with candidates for the weights `names`; all others stay as they are.

    What comes before the first of these weights makes the same of an image whatever they are: it is run once
    (`repair.prefix`), unless its activations of `most` images would take more than `repair.prefix.LIMIT` bytes. What
    is judged are projected weights, so that whatever is found is still compressed. Candidates go through the model in
    one pass (`population_outputs`) where matrices alone are left to multiply with; one after the other where its graph
    cannot be batched over weights (roundings of activations to integers), and through convolutions, which a processor
    computes twice as fast so (docs/search_based_repair.md). `images`: some uint8 (n, c, h, w), n >= 1.
    """

    def __init__(self, trainable: Trainable, names: Collection[str], images: Tensor, most: int = 0) -> None:
        self.trainable, self.names = trainable, tuple(names)
        self._shown = trainable.shown(trainable.module)
        shown = self._shown.show(to_unit(images[:1])).detach()
        split = _split(trainable, self.names, shown.expand(3, *shown.shape[1:]).contiguous())
        if split is not None and most * _run(split.before, shown).numel() * torch.float32.itemsize > LIMIT:
            split = None
        self._before = None if split is None else split.before
        self._after = trainable.module if split is None else split.after
        reads = dict(trainable.module.named_parameters()) if split is None else split.reads[1]
        self._convolves = any(trainable.module.get_parameter(name).ndim > 2 for name in reads)
        self.batched = self._can_be_batched(shown)

    def known(self, examples: Examples) -> Known:
        """Examples as `scores` takes them."""
        return Known(self._kept(examples.images), examples.targets.argmax(-1))

    def projected(self, weights: Weights) -> dict[str, Tensor]:
        """The candidates as they count: each projected by the model's plan."""
        plan = self.trainable.plan
        with torch.no_grad():
            return {
                name: torch.stack([plan[name](one) for one in each]) if name in plan else each
                for name, each in weights.items()
            }

    @torch.no_grad()
    def scores(self, known: Known, weights: Weights) -> Tensor:
        """Scores (candidates, n, classes) of the model with each of the candidates, projected."""
        chosen = self.projected(weights)
        count = len(next(iter(chosen.values())))
        answers = self._together if self.batched and count > 1 else self._in_turn
        size = max(1, AT_ONCE // count) if answers == self._together else CHUNK
        parts = [answers(self._values(part), chosen) for part in known.values.split(size)]
        found = torch.cat(parts, 1)
        return self._shown.read(found.flatten(0, 1)).unflatten(0, found.shape[:2])

    def margins(self, known: Known, weights: Weights) -> Tensor:
        """Score of the original's label minus the best other one, (candidates, n): above 0 where the pair agrees."""
        scores = self.scores(known, weights)
        return margins(scores, known.right)

    def start(self) -> dict[str, Tensor]:
        """The weights as they are, one candidate."""
        return {name: self.trainable.module.get_parameter(name).detach()[None].clone() for name in self.names}

    def _kept(self, images: Tensor) -> Tensor:
        if self._before is None:
            return images
        return torch.cat([_run(self._before, self._shown.show(to_unit(part))) for part in images.split(200)])

    def _values(self, part: Tensor) -> Tensor:
        return part if part.is_floating_point() else self._shown.show(to_unit(part))

    def _together(self, values: Tensor, weights: Weights) -> Tensor:
        return population_outputs(self._after, dict(weights), values)

    def _in_turn(self, values: Tensor, weights: Weights) -> Tensor:
        count = len(next(iter(weights.values())))
        each = [{name: candidates[row] for name, candidates in weights.items()} for row in range(count)]
        return torch.stack([functional_call(self._after, one, (values,)) for one in each])

    def _can_be_batched(self, shown: Tensor) -> bool:
        """Whether two candidates together answer as one after the other, tried on an image, and as fast."""
        if self._convolves:
            return False
        values = shown if self._before is None else _run(self._before, shown)
        two = {name: torch.cat([weight, 0.9 * weight]) for name, weight in self.start().items()}
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error")  # torch warns of operators that it would run one after the other
            try:
                together = self._together(values, two)
            except (RuntimeError, TypeError, ValueError, UserWarning):  # whatever an operator says that has no rule
                return False
            alone = self._in_turn(values, two)
        return bool(torch.allclose(together, alone, rtol=1e-4, atol=1e-4 * max(1.0, float(alone.abs().max()))))


def margins(scores: Tensor, right: Tensor) -> Tensor:
    """Score of a class (n,) minus the best other one, (..., n), of scores (..., n, classes).

    0 for a tie: strict, so that a network whose scores are all alike agrees with nothing.
    """
    label = right[:, None].expand(*scores.shape[:-1], 1)
    own = scores.gather(-1, label).squeeze(-1)
    return own - scores.scatter(-1, label, -torch.inf).amax(-1)


def _split(trainable: Trainable, names: Collection[str], values: Tensor) -> Split | None:
    find: Callable[..., Split | None] | None = SPLITTERS.get(type(trainable.module).__name__)
    return None if find is None else find(trainable.module, names, values)


def _run(before: nn.Module, values: Tensor) -> Tensor:
    with torch.no_grad():
        kept: Tensor = before(values)
    return kept
