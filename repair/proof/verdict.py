"""Does a repair beat its placebo? One rule and the sentence that goes with it."""

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, NamedTuple

from repair.proof.intervals import CONFIDENCE, Figure, Z, difference


class Comparison(NamedTuple):
    """One figure of the repair beside the placebo's."""

    words: str  # what the repair does and what the placebo does
    gain: Figure  # how much better the repair is; positive is better

    def better(self, chances: int) -> bool:
        """Whether the interval, widened for `chances` tries at winning (Bonferroni), lies above 0."""
        wide = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2 / chances) / Z
        value, low = self.gain.value, self.gain.low
        return value is not None and low is not None and value + wide * (low - value) > 0

    def worse(self) -> bool:
        """Whether the 95 % interval lies below 0."""
        return self.gain.high is not None and self.gain.high < 0


def beats_placebo(
    repair: Mapping[str, Any], placebo: Mapping[str, Any] | None, paired: Mapping[str, Any] | None = None
) -> tuple[bool | None, str]:
    """Whether the repair is better than the same effort spent on clean images, and the sentence that says why.

    `repair` is a Round (or headline) and `placebo` its placebo: both hold `"repair"` and `"search"`. The rule:

    * *better* on at least one of held-out triggers (generalization), probe deviation rate and queries after / before:
      the interval of the difference excludes 0, at 95 % after Bonferroni's correction for up to three chances;
    * *worse* on none of generalization, probe and drawdown: no 95 % interval lies wholly on the wrong side.

    Harm is thus easier to show than success. The difference of two rates is Newcombe's, of two ratios the same on
    logarithms; both treat the two runs as independent although they judge the same images, which is conservative.
    `paired` replaces them where the single images are at hand: `generalization`, `probe_after`, `drawdown` as Figures
    of repair - placebo (`paired_rates(placebo_agrees, repair_agrees).net` for the first, its negative for the others)
    and `queries_ratio` as the Figure of mean queries after the repair / after the placebo (`ratio_of_means`).
    The intervals cover the choice of images, not the randomness of training. None where nothing can be compared.
    """
    if placebo is None:
        return None, "Whether the repair beats its placebo is not known: no placebo was run."
    found = _comparisons(repair, placebo, paired or {})
    chances = [found[key] for key in ("generalization", "probe_after", "queries_ratio") if key in found]
    if not chances:
        return None, "Whether the repair beats its placebo is not known: they have no figure in common."
    wins = [item.words for item in chances if item.better(len(chances))]
    harms = [item.words for key, item in found.items() if key != "queries_ratio" and item.worse()]
    if wins and not harms:
        return True, f"The repair beats its placebo: it {_listed(wins)}."
    if harms:
        although = f", although it {_listed(wins)}" if wins else ""
        return False, f"The repair does not beat its placebo: it is worse, it {_listed(harms)}{although}."
    words = _listed([item.words for item in chances])
    return False, f"The repair does not beat its placebo: it {words}; chance explains such differences."


def percent(value: float | None) -> str:
    """A share as percent, `74.2 %`: one decimal from 10 %, two from 0.1 %, else two digits; `–` for None."""
    if value is None:
        return "–"
    number = 100 * value
    if number == 0:
        return "0 %"
    digits = 1 if abs(number) >= 10 else 2 if abs(number) >= 0.1 else 1 - math.floor(math.log10(abs(number)))
    return f"{number:.{digits}f} %"


def _comparisons(repair: Mapping[str, Any], placebo: Mapping[str, Any], paired: Mapping[str, Any]) -> dict[str, Any]:
    """The comparable figures by key."""
    kinds = {
        "generalization": ("repair", 1, "repairs {} of held-out triggers against the placebo's {}"),
        "probe_after": ("repair", -1, "deviates on {} of the probe images against the placebo's {}"),
        "drawdown": ("repair", -1, "breaks {} of the clean images against the placebo's {}"),
        "queries_ratio": ("search", 1, "multiplies the queries of a fresh search by {} against the placebo's {}"),
    }
    comparisons = {}
    for key, (block, sign, words) in kinds.items():
        ours, theirs = (Figure.of((side.get(block) or {}).get(key)) for side in (repair, placebo))
        if ours.value is None or theirs.value is None:
            continue
        show = _times if key == "queries_ratio" else percent
        logarithmic = _logarithm if key == "queries_ratio" else Figure.of
        gain = logarithmic(Figure.of(paired[key])) if paired.get(key) else None
        gain = gain or difference(logarithmic(ours), logarithmic(theirs))
        comparisons[key] = Comparison(words.format(show(ours.value), show(theirs.value)), _signed(gain, sign))
    return comparisons


def _listed(words: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _times(value: float) -> str:
    return f"{value:.2f}"


def _logarithm(ratio: Figure) -> Figure:
    ends = [math.log(end) if end else None for end in (ratio.value, ratio.low, ratio.high)]
    return Figure(ends[0], ends[1], ends[2], ratio.n)


def _signed(figure: Figure, sign: int) -> Figure:
    if sign > 0 or figure.value is None:
        return figure
    low, high = (None if end is None else -end for end in (figure.high, figure.low))
    return Figure(-figure.value, low, high, figure.n)
