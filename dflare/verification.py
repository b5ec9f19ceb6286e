"""Triggers asked again, one at a time: which still deviate, and whether the models answer the same every time."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dflare.classifiers import ModelPair, Outputs


@dataclass(frozen=True)
class Verified:
    """What asking n triggers again came to; every field is (n,) bool, and one of the first three is true of each."""

    deviates: Tensor  # every time it was asked
    tied: Tensor  # the labels differed every time, but at least once only by a tie
    agrees: Tensor  # the labels were the same at least once: the trigger is not confirmed
    original_changed: Tensor  # the original's scores were not the same to the last bit every time
    compressed_changed: Tensor  # the same of the compressed model

    def counts(self) -> dict[str, int]:
        """How many triggers each field is true of, and how many were `asked`."""
        return {"asked": len(self.deviates)} | {name: int(mask.sum()) for name, mask in vars(self).items()}


def ask_again(pair: ModelPair, images: Tensor, repeats: int) -> list[Outputs]:
    """The answers to n >= 1 uint8 images (n, c, h, w), each asked alone, in each of `repeats` >= 1 turns.

    Every other turn goes backwards, so that a model that remembers what it was asked before is found out as well.
    """
    turns = []
    for turn in range(repeats):
        rows = range(len(images))
        answers = {row: _copied(pair(images[row : row + 1])) for row in (reversed(rows) if turn % 2 else rows)}
        turns.append(Outputs(*(torch.cat([answers[row][which] for row in rows]) for which in (0, 1))))
    return turns


def verified(turns: Sequence[Outputs]) -> Verified:
    """What one or more turns of answers to the same n images come to; a single turn shows no change."""
    deviates = torch.stack([outputs.deviates for outputs in turns]).all(0)
    differs = torch.stack([outputs.deviates | outputs.tied for outputs in turns]).all(0)
    return Verified(
        deviates=deviates,
        tied=differs & ~deviates,
        agrees=~differs,
        original_changed=_changed([outputs.original for outputs in turns]),
        compressed_changed=_changed([outputs.compressed for outputs in turns]),
    )


def _copied(outputs: Outputs) -> Outputs:
    """The outputs apart from any memory that a model uses again for its next answer."""
    return Outputs(outputs.original.clone(), outputs.compressed.clone())


def _changed(turns: Sequence[Tensor]) -> Tensor:
    """Where scores (n, classes) float32 have other bits in another turn, (n,) bool; 0 and -0 are different."""
    first, *others = (scores.contiguous().view(torch.int32) for scores in turns)
    changed = torch.zeros(len(first), dtype=torch.bool, device=first.device)
    for scores in others:
        changed |= (scores != first).any(-1)
    return changed
