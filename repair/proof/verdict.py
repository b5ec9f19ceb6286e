"""Does a repair beat its placebo? One rule and the sentence that goes with it."""

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, NamedTuple

from repair.proof.intervals import CONFIDENCE, Figure, Z, difference

CHANCES = ("generalization", "generalization_other", "probe_after", "queries_ratio")
"""The figures by which a repair may win."""


class Comparison(NamedTuple):
    """One figure of the repair beside the placebo's."""

    words: str  # what the repair does and what the placebo does
    gain: Figure  # how much better the repair is; positive is better
    p: float | None = None  # of a paired test of the same images, in [0, 1]; None where there was none

    def better(self, chances: int) -> bool:
        """Whether the interval, widened for `chances` tries at winning (Bonferroni), lies above 0.

        Where there is a paired test, its p must not exceed 5 % / `chances` either.
        """
        wide = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2 / chances) / Z
        value, low = self.gain.value, self.gain.low
        above = value is not None and low is not None and value + wide * (low - value) > 0
        return above and (self.p is None or self.p <= (1 - CONFIDENCE) / chances)

    def worse(self) -> bool:
        """Whether the 95 % interval lies below 0."""
        return self.gain.high is not None and self.gain.high < 0


def beats_placebo(
    repair: Mapping[str, Any], placebo: Mapping[str, Any] | None, paired: Mapping[str, Any] | None = None
) -> tuple[bool | None, str]:
    """Whether the repair is better than the same effort spent on clean images, and the sentence that says why.

    `repair` is a Round (or headline) and `placebo` its placebo: both hold `"repair"` and `"search"`. The rule:

    * *better* on at least one of held-out triggers (generalization), held-out triggers of another search strategy
      (generalization_other), probe deviation rate and queries after / before: the interval of the difference excludes
      0, at 95 % after Bonferroni's correction for as many chances as could be compared, four at most;
    * *worse* on none of the two generalizations, probe and drawdown: no 95 % interval lies wholly on the wrong side;
    * the probe deviation rate has not risen above that of the model before the repair by more than chance explains
      (`probe_mcnemar_p`, else the interval of the difference): that is no success, whatever the placebo did.

    Harm is thus easier to show than success. The difference of two rates is Newcombe's, of two ratios the same on
    logarithms; both treat the two runs as independent although they judge the same images, which is conservative.
    `paired` replaces them where the single images are at hand: `generalization`, `generalization_other`,
    `probe_after`, `drawdown` as Figures of repair - placebo (`paired_rates(placebo_agrees, repair_agrees).net` for the
    first two, its negative for the others) and `queries_ratio` as the Figure of mean queries after the repair / after
    the placebo (`ratio_of_means`). `probe_mcnemar_p` in it is McNemar's test of the repair against the placebo on the
    probe: a better probe deviation rate must pass it too.
    The intervals cover the choice of images, not the randomness of training. None where nothing can be compared.
    """
    if placebo is None:
        return None, "Whether the repair beats its placebo is not known: no placebo was run."
    found = _comparisons(repair, placebo, paired or {})
    chances = [found[key] for key in CHANCES if key in found]
    if not chances:
        return None, "Whether the repair beats its placebo is not known: they have no figure in common."
    wins = [item.words for item in chances if item.better(len(chances))]
    harms = [item.words for key, item in found.items() if key != "queries_ratio" and item.worse()]
    although = f", although it {_listed(wins)}" if wins else ""
    if (risen := probe_has_risen(repair)) is not None:
        also = f" and is worse than its placebo, it {_listed(harms)}" if harms else ""
        return False, f"The repair is no success: it {risen}{also}{although}."
    if harms:
        return False, f"The repair does not beat its placebo: it is worse, it {_listed(harms)}{although}."
    if wins:
        return True, f"The repair beats its placebo: it {_listed(wins)}."
    words = _listed([item.words for item in chances])
    return False, f"The repair does not beat its placebo: it {words}; chance explains such differences."


def probe_has_risen(repair: Mapping[str, Any]) -> str | None:
    """What the repaired model does worse on the probe than the model before it; None unless chance cannot explain it.

    By McNemar's test where `probe_mcnemar_p` is at hand, else by the 95 % interval of the difference.
    """
    figures = repair.get("repair") or {}
    before, after = (Figure.of(figures.get(f"probe_{when}")) for when in ("before", "after"))
    if before.value is None or after.value is None or after.value <= before.value:
        return None
    p = figures.get("probe_mcnemar_p")
    if p is None:
        low = difference(after, before).low
        return None if low is None or low <= 0 else _risen(before, after, "")
    return _risen(before, after, f" (McNemar's test, p = {p:.2g})") if p <= 1 - CONFIDENCE else None


def _risen(before: Figure, after: Figure, test: str) -> str:
    shares = percent(after.value), percent(before.value)
    return f"deviates on {shares[0]} of the probe images, the model before it on {shares[1]}{test}"


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
        "generalization_other": ("repair", 1, "repairs {} of those of another search against the placebo's {}"),
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
        p = paired.get("probe_mcnemar_p") if key == "probe_after" else None
        comparisons[key] = Comparison(words.format(show(ours.value), show(theirs.value)), _signed(gain, sign), p)
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
