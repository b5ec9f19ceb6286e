"""Root finding for two models at once: between which positions on a way does each give up the first label?

On a way from an image that both models give one label to an image that both give another, each model's margin of the
first label changes sign somewhere. Between the two zeros the models disagree. The next position to ask is half way
between the estimated zeros, close to the one that is known where a model's scores are too coarse to tell its own
(`NEAR`), and the middle of the bracket where the estimates are stuck (`STUCK`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dflare.crossing import WHOLE

STUCK = 3
"""After so many probes in a row that moved the same end by little, the middle is asked: the estimates are stuck."""

LITTLE = 0.5
"""A probe that leaves more of a margin than this share of the end's it replaces has moved it by little."""

NEAR = 0.05
"""Weight of a coarse model's zero beside 1 for the other's: asked is what lies close to the one that is known."""


@dataclass(frozen=True)
class Bracket:
    """n brackets: at `low` both models keep the first label, at `high` neither does."""

    low: Tensor  # (n,) int64, position in [0, WHOLE)
    high: Tensor  # (n,) int64, position in (low, WHOLE]
    past: Tensor  # (n,) int64, an end given up, or an end while there is none
    at_low: Tensor  # (n, 2) float64, margins of both models at `low`; not negative
    at_high: Tensor  # (n, 2) float64, not positive
    at_past: Tensor  # (n, 2) float64
    coarse: Tensor  # (n, 2) bool, models that tied: their scores are too coarse to tell where their zero is
    side: Tensor  # (n,) int64, how often in a row the same end moved by little: positive for low, negative for high
    probes: Tensor  # (n,) int64, positions asked


def opened(at_low: Tensor, at_high: Tensor) -> Bracket:
    """Brackets over whole ways, given both models' margins (n, 2) at the ends."""
    zeros, fine = torch.zeros(len(at_low), dtype=torch.int64, device=at_low.device), torch.zeros_like(at_low).bool()
    return Bracket(zeros, zeros + WHOLE, zeros, at_low, at_high, at_low, fine, zeros, zeros)


def around(position: Tensor, margins: Tensor, slope: Tensor) -> Bracket:
    """Brackets about positions (n,) where margins (n, 2) were seen, from slopes (n, 2) > 0, margin lost a position.

    Nothing was asked at their ends: those are where the lines through the position are far beyond zero.
    """
    half = 2 * (margins.abs() / slope).amax(-1).clamp(max=WHOLE).ceil().to(torch.int64) + 1
    low, high = (position - half).clamp(min=0), (position + half).clamp(max=WHOLE)
    at_low = (margins + slope * (position - low)[:, None]).clamp(min=0)
    at_high = (margins - slope * (high - position)[:, None]).clamp(max=0)
    zeros = torch.zeros_like(position)
    return Bracket(low, high, low, at_low, at_high, at_low, margins == 0, zeros, zeros + 1)


def at(position: Tensor, width: int) -> Bracket:
    """Brackets whose only inner position is the given one (n,), with `width` (2: two models) unknown margins."""
    unknown = torch.zeros(len(position), width, dtype=torch.float64, device=position.device)
    position = position.clamp(1, WHOLE - 1)
    zeros = torch.zeros_like(position)
    return Bracket(position - 1, position + 1, position - 1, unknown, unknown, unknown, unknown > 0, zeros, zeros)


def target(bracket: Bracket) -> Tensor:
    """The position to ask next, (n,) int64, strictly between the ends where there is a position."""
    zeros = torch.where((bracket.probes == 0)[:, None], _first_zeros(bracket), _zeros(bracket))
    low, high = bracket.low.double(), bracket.high.double()
    share = torch.where(bracket.coarse & ~bracket.coarse.flip(-1), NEAR, 1.0)
    aim = (zeros * share).sum(-1) / share.sum(-1)
    aim = torch.where(bracket.side.abs() >= STUCK, (low + high) / 2, aim)
    aim = aim.round().to(torch.int64)
    return torch.minimum(torch.maximum(aim, bracket.low + 1), bracket.high - 1)


def told(bracket: Bracket, position: Tensor, margins: Tensor) -> Bracket:
    """The brackets after margins (n, 2) were seen at positions (n,) where the models do not deviate."""
    below = (margins > 0).any(-1)
    ends = torch.where(below, bracket.low, bracket.high)
    at_ends = torch.where(below[:, None], bracket.at_low, bracket.at_high)
    way = torch.where(below, 1, -1)
    little = (margins.abs() > LITTLE * at_ends.abs()).any(-1)
    side = torch.where(little & (bracket.side * way > 0), bracket.side + way, way)
    return Bracket(
        low=torch.where(below, position, bracket.low),
        high=torch.where(below, bracket.high, position),
        past=ends,
        at_low=torch.where(below[:, None], margins, bracket.at_low),
        at_high=torch.where(below[:, None], bracket.at_high, margins),
        at_past=at_ends,
        coarse=bracket.coarse | (margins == 0),
        side=side,
        probes=bracket.probes + 1,
    )


def _first_zeros(bracket: Bracket) -> Tensor:
    """Where each model's margin may vanish, (n, 2), on a way of which only the ends are known.

    Networks are surer far from their boundaries than a straight line from there would have it, so the roots of the
    margins are interpolated: a guess that lies nearer to the middle.
    """
    a, b = bracket.at_low.clamp(min=0).sqrt(), (-bracket.at_high).clamp(min=0).sqrt()
    low, high = bracket.low.double()[:, None], bracket.high.double()[:, None]
    return low + (high - low) * torch.where(a + b > 0, a / (a + b), torch.full_like(a, 0.5))


def _zeros(bracket: Bracket) -> Tensor:
    """Where each model's margin is estimated to vanish, (n, 2) float64 in [low, high].

    By inverse quadratic interpolation where three points allow it (Chandrupatla's criterion, Advances in Engineering
    Software 28, 1997), else linearly.
    """
    low, high, past = (t.double()[:, None] for t in (bracket.low, bracket.high, bracket.past))
    a, b, c = bracket.at_low, bracket.at_high, bracket.at_past
    linear = torch.where(a > b, a / (a - b), torch.full_like(a, 0.5))
    line = low + (high - low) * linear
    # inverse quadratic through (a, low), (b, high), (c, past)
    curve = (
        low * (b / (a - b)) * (c / (a - c))
        + high * (a / (b - a)) * (c / (b - c))
        + past * (a / (c - a)) * (b / (c - b))
    )
    new = torch.where((bracket.side > 0)[:, None], low, high)  # the end that moved last
    other = torch.where((bracket.side > 0)[:, None], high, low)
    f_new = torch.where((bracket.side > 0)[:, None], a, b)
    f_other = torch.where((bracket.side > 0)[:, None], b, a)
    xi = (new - other) / (past - other)
    phi = (f_new - f_other) / (c - f_other)
    good = (phi.square() < xi) & ((1 - phi).square() < 1 - xi) & curve.isfinite() & (curve > low) & (curve < high)
    return torch.where(good, curve, line)
