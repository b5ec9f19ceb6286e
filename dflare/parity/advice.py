"""What is said to a person of a pair that does not agree, or that might agree better."""

from dataclasses import dataclass

from torch import Tensor

from dflare.parity.checked import Checked, Finding, percent
from dflare.parity.choices import advised, choices
from dflare.parity.explanation import SIGNIFICANT, Explanation, accepted, revives
from dflare.parity.questions import WHICH
from dflare.parity.scale import explained, unlike
from dflare.parity.symptoms import Symptoms

_CEILING, _GAIN = 0.95, 0.05
"""A warning is worth a gain in agreement or accuracy of so much, at an agreement that is no more below so much."""

_REVIVED = 0.7
"""Agreement that is enough where the present one is of two models that are both wrong."""

_SWAPPED = 1.96
"""Standard normal quantile beyond which the other channel order is better: one try, not one of some hundred."""


@dataclass(frozen=True)
class Tried:
    """What came of showing the models images in other ways."""

    found: list[Explanation]
    named: list[Explanation]  # the best of them with other usual mean and std
    count: int
    seconds: float | None  # for which not all could be tried
    labels: Tensor | None  # where some way makes some model know them


def diagnosed(failed: str, symptoms: Symptoms, tried: Tried, least: float) -> list[Finding]:
    """One sentence: what is wrong and what repairs it, or that nothing usual does."""
    now = None if symptoms.broken else symptoms.comparable
    good = [
        one
        for one in tried.found
        if set(symptoms.broken) <= set(one.changed) and accepted(one, now, tried.labels, least)
    ]
    if good:
        best = good[0]
        chosen = choices(best, tried.found + tried.named, tried.labels, least)
        text = f"{failed}; with {_said(chosen, symptoms, tried)}: set {advised(chosen)[1]}"
        other = next((one for one in good if one.changed not in (best.changed, [0, 1])), None)
        if tried.labels is None and len(best.changed) == 1 and other is not None and not symptoms.broken:
            others = choices(other, tried.found + tried.named, None, least)
            text += (
                f" (no labels tell which of the two is shown wrongly: with {_said(others, symptoms, tried)} too: "
                f"set {advised(others)[1]})"
            )
        return [Finding(text + _stopped(tried), chosen[0].settings, fatal=True)]
    if not tried.count:
        return [Finding(failed + _stopped(tried), fatal=True)]
    text = f"{failed}; none of the usual slips in range, mean and std, channel order, layout and classes explains it"
    if tried.found and not symptoms.broken:
        best = max(tried.found, key=lambda one: one.agreement)
        text += f" (best of {tried.count} tries: with {_said([best], symptoms, tried)})"
    text += _stopped(tried)
    if not symptoms.broken and symptoms.comparable is not None:
        text += (
            "; check that both are models of the same classes in the same order, and lower "
            "preflight.min_agreement if they really differ so much"
        )
    return [Finding(text, fatal=True)]


def doubts(symptoms: Symptoms, checked: Checked, tried: Tried, hints: tuple[Finding, ...]) -> list[Finding]:
    """A warning where a pair that agrees is much better when it is shown images in another way.

    Never of what lowers the agreement, unless both models are wrong and surely know the labels better then.
    """
    now = symptoms.comparable
    if now is None or checked.agreement is None:
        return []
    least = min(checked.agreement, _CEILING) - _GAIN
    for one in tried.found:
        worthless = bool(hints) or (tried.labels is not None and len(one.changed) == 2)
        bar = min(least, _REVIVED) if worthless else least
        better = _gains(one, checked, tried) and accepted(one, now, tried.labels, bar, _quantile(one))
        if better or (tried.labels is None and hints and revives(one, bar)):
            chosen = choices(one, tried.found + tried.named, tried.labels, bar)
            text = (
                f"original and compressed agree on {percent(checked.agreement)} of {checked.n} real images, but with "
                f"{_said(chosen, symptoms, tried)}: perhaps set {advised(chosen)[1]}"
            )
            if not better:
                text += " (unless the images really are of one class)"
            elif all(part.startswith("models.both.classes=") for part in chosen[0].settings.split()):
                text += " (or the labels are counted otherwise)"
            return [Finding(text + _stopped(tried), chosen[0].settings)]
    times, best = unlike(now), explained(now, tried.found, checked.agreement)
    if times is not None and best is not None:
        text = f"one model's scores are {times:.0f} times the other's, but not with {_said([best], symptoms, tried)}"
        return [Finding(f"{text}: perhaps set {best.settings}{_stopped(tried)}", best.settings)]
    return []


def left_out(tried: Tried) -> list[Finding]:
    """What is said where nothing was found and not all was tried."""
    return (
        []
        if tried.seconds is None
        else [Finding(f"no usual slip in how the models are shown images was found{_stopped(tried)}")]
    )


def _gains(one: Explanation, checked: Checked, tried: Tried) -> bool:
    """Whether agreement or accuracy gain much and neither loses, but the agreement of two that both were wrong."""
    gain = one.agreement - (checked.agreement or 0)
    if tried.labels is None:
        return gain >= _GAIN
    after = one.accuracy(tried.labels)
    gains = [after[model] - (checked.accuracy[model] or 0) for model in one.changed]
    if len(gains) == 2 and min(gains) >= _GAIN:
        return True
    return gain >= 0 and min(gains) >= 0 and max(gain, *gains) >= _GAIN


def _quantile(one: Explanation) -> float:
    """How sure it must be that a way is better: less where it only takes the channels in the other order."""
    named = one.settings.split()
    return _SWAPPED if len(named) == 1 and ".channels=" in named[0] else SIGNIFICANT


def _said(chosen: list[Explanation], symptoms: Symptoms, tried: Tried) -> str:
    """How the models are shown images, how far they agree then, and what that does to their accuracies."""
    one = chosen[0]
    text = f"{advised(chosen)[0]} they agree on {percent(one.agreement)}"
    if tried.labels is None:
        return text
    after = one.accuracy(tried.labels)
    for model in one.changed:
        before = symptoms.figures().accuracy[model]
        instead = "" if before is None else f" instead of {100 * before:.1f}"
        text += f" and the {WHICH[model]} is right on {100 * after[model]:.1f}{instead} %"
    return text


def _stopped(tried: Tried) -> str:
    return "" if tried.seconds is None else f" (not all was tried: that takes longer than {tried.seconds:g} s)"
