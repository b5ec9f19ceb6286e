"""Drive chains until each has found a deviation or spent its budget, with the models always shown full batches."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

from dflare.chain import ChainState, Kernel
from dflare.classifiers import ModelPair, Outputs
from dflare.seeds import Seeds

FITTING = 2**20
"""Values of the images in one batch, about: few large images or many small ones."""


def fitting_batch(images: Tensor) -> int:
    """How many images like these (n, c, h, w) to ask at once: a power of 2 from 64 to 1024.

    What a step costs beside the models hardly grows with the batch, so small images, whose models are fast, come in
    large batches.
    """
    count = max(1, FITTING // images.shape[1:].numel())
    return min(1024, max(64, 2 ** (count.bit_length() - 1)))


class Ending(Enum):
    """How a chain ended; the value is the sentence for a reader."""

    deviated = "a mutated image was found on which the two models disagree"
    already = "the two models disagree on the seed image itself"
    exhausted = "the budget of queries was spent without a deviation"
    timed_out = "the time was over before the chain had ended; continuing the run takes it up again"


class Ended(NamedTuple):
    """Chains that ended in the same step in the same way."""

    ending: Ending
    chains: ChainState  # (n, ...); `images` holds the trigger where one was found
    outputs: Outputs  # (n, classes) what both models said of the last candidates, asked alone where they deviate


@dataclass
class Tally:
    """What a search cost, counted while it runs."""

    batches: int = 0  # times the pair was asked
    full: int = 0  # of those, with a full batch
    queries: int = 0  # candidates asked after the seeds, of all chains; gradients, which count too, are not in it


@dataclass(frozen=True)
class Search:
    """A search over seeds: `for ended in search.run(seeds): …`.

    `pair` is asked in batches of `batch_size`; what deviates there is asked again of `confirm`, one image at a time,
    and only that answer counts. `confirm` should hold models opened for this purpose alone. A chain ends at
    `max_queries` candidates. When `out_of_time` says so, the chains in flight end as `Ending.timed_out`.
    The result of a chain depends on `seed`, its image and id, never on the batch (up to the models' own rounding).
    """

    kernel: Kernel
    pair: ModelPair
    confirm: ModelPair
    seed: int
    max_queries: int = 1000
    batch_size: int = 256
    out_of_time: Callable[[], bool] = lambda: False

    def run(self, seeds: Iterable[Seeds], tally: Tally | None = None) -> Iterator[Ended]:
        """Yield chains as they end; a place that falls free is taken by the next seed in the same step."""
        tally = tally if tally is not None else Tally()
        queue, chains = _Queue(seeds), None
        while True:
            fresh = queue.take(self.batch_size - (len(chains) if chains is not None else 0))
            if chains is None and fresh is None:
                return
            chains, answers = self._step(chains, fresh, tally)
            going = torch.ones(len(chains), dtype=torch.bool, device=chains.images.device)
            for rows, ending in self._endings(chains, answers):
                going &= ~rows
                if bool(rows.any()):
                    yield Ended(ending, chains[rows], answers.take(rows))
            answers = answers.take(going)
            chains = chains[going] if bool(going.any()) else None
            if self.out_of_time():
                if chains is not None:
                    yield Ended(Ending.timed_out, chains, answers)
                return

    def _step(self, chains: ChainState | None, fresh: Seeds | None, tally: Tally) -> tuple[ChainState, Outputs]:
        """Move the chains by one candidate and start the fresh ones, all in one batch of questions."""
        asked, choice, old = [], None, 0
        if chains is not None:
            candidates, choice = self.kernel.propose(self.seed, chains)
            asked, old = [candidates], len(chains)
        if fresh is not None:
            asked.append(fresh.images)
        images = torch.cat(asked)
        outputs, doubted = self._confirmed(images, self.pair(images))
        tally.batches += 1
        tally.full += len(images) == self.batch_size
        tally.queries += old
        first = torch.arange(len(images), device=images.device) < old
        moved = None
        if chains is not None and choice is not None:
            moved, _ = self.kernel.update(chains, images[first], choice, outputs.take(first))
            moved = replace(moved, unconfirmed=moved.unconfirmed + doubted[first])
        if fresh is None:
            assert moved is not None
            return moved, outputs
        started = self.kernel.init(self.seed, fresh.ids, fresh.images, outputs.take(~first))
        started = replace(started, unconfirmed=started.unconfirmed + doubted[~first])
        return (started if moved is None else moved.join(started)), outputs

    def _confirmed(self, images: Tensor, outputs: Outputs) -> tuple[Outputs, Tensor]:
        """The outputs with every deviating row asked again alone, and which rows then no longer deviate (n,) bool."""
        doubted = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        original, compressed = outputs.original.clone(), outputs.compressed.clone()
        rows = outputs.deviates.nonzero().squeeze(-1)
        if not len(rows):
            return outputs, doubted
        alone = self.confirm.one_by_one(images[rows])
        original[rows], compressed[rows] = alone.original, alone.compressed
        doubted[rows] = (~alone.deviates).to(doubted.dtype)
        return Outputs(original, compressed), doubted

    def _endings(self, chains: ChainState, outputs: Outputs) -> list[tuple[Tensor, Ending]]:
        deviates, started = outputs.deviates, chains.queries > 0
        return [
            (deviates & started, Ending.deviated),
            (deviates & ~started, Ending.already),
            (~deviates & (chains.queries >= self.max_queries), Ending.exhausted),
        ]


class _Queue:
    """Seeds in order, handed out in any portion; holds one chunk of the source at a time."""

    def __init__(self, source: Iterable[Seeds]) -> None:
        self._source = iter(source)
        self._chunk: Seeds | None = None

    def take(self, count: int) -> Seeds | None:
        """The next `count` seeds, fewer at the end, None when there are none (left or asked for)."""
        parts: list[Seeds] = []
        while count > 0:
            if self._chunk is None or not len(self._chunk):
                self._chunk = next(self._source, None)
                if self._chunk is None:
                    break
                continue
            parts.append(self._chunk.take(slice(count)))
            self._chunk = self._chunk.take(slice(count, None))
            count -= len(parts[-1])
        if not parts:
            return None
        return Seeds(torch.cat([part.images for part in parts]), torch.cat([part.ids for part in parts]))
