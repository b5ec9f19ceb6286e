"""How far a network's outputs have gone from what they were, in ways that do not depend on their scale."""

import torch
from torch import Tensor

LEAST = 1e-9
"""What a spread of scores counts as at least."""

REACH = 0.2
"""Leads up to this share of the spread of the scores are held; larger ones may shrink down to it."""


def difference(after: Tensor, before: Tensor) -> Tensor:
    """Mean |after - before| of the scores in units of their spread, (n,).

    Relative, because where all scores lie close together a small change decides.
    """
    return (after - before).abs().mean(-1) / _spread(before)


def lost_lead(after: Tensor, before: Tensor) -> Tensor:
    """How much of its lead the least score has lost, and the same of the greatest, (n,).

    0 where both are still ahead of the next score by as much as before, or by `REACH` times the spread of the scores;
    1 and more where another score has taken a place. Whichever end a network decides by, its decisions are held.
    """
    unit = REACH * _spread(before)
    return sum((_lost(sign * after, sign * before, unit) for sign in (1, -1)), start=torch.zeros_like(unit))


def _lost(after: Tensor, before: Tensor, unit: Tensor) -> Tensor:
    """max(0, min(lead before, unit) - lead after) / unit for the lead of the least score."""
    first = before.argmin(-1, keepdim=True)
    leads = [
        scores.scatter(-1, first, torch.inf).amin(-1) - scores.gather(-1, first).squeeze(-1)
        for scores in (before, after)
    ]
    return (torch.minimum(leads[0], unit) - leads[1]).clamp(min=0) / unit


def _spread(scores: Tensor) -> Tensor:
    """Standard deviation of each row of scores (n, outputs), at least `LEAST`; of a single score its size."""
    if scores.shape[-1] == 1:
        return scores.abs().squeeze(-1).clamp(min=LEAST)
    return scores.std(-1, correction=0).clamp(min=LEAST)
