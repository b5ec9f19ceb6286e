"""What is said to a person of a pair that does not agree, or that might agree better."""

from dataclasses import dataclass

from torch import Tensor

from dflare.parity.checked import Checked, Finding, percent
from dflare.parity.explanation import Explanation, accepted, revives
from dflare.parity.questions import WHICH
from dflare.parity.scale import explained, unlike
from dflare.parity.symptoms import Symptoms

_CEILING, _GAIN = 0.95, 0.05
"""A warning is worth a gain in agreement or accuracy of so much, at an agreement that is no more below so much."""

_EQUAL = 0.01  # in agreement: what so few images cannot tell apart


@dataclass(frozen=True)
class Tried:
    """What came of showing the models images in other ways."""

    found: list[Explanation]
    count: int
    seconds: float | None  # after which it was stopped
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
        text = f"{failed}; with {_said(best, symptoms, tried)}: set {best.settings}"
        equal = [one for one in good[1:] if one.changed == best.changed and one.agreement >= best.agreement - _EQUAL]
        if equal and ".mean=" in best.settings:
            others = " or ".join(one.settings for one in equal[:2])
            text += f" (or, as good on these images, {others}: take what the model was trained with)"
        other = next((one for one in good if one.changed not in (best.changed, [0, 1])), None)
        if tried.labels is None and len(best.changed) == 1 and other is not None and not symptoms.broken:
            text += (
                f" (no labels tell which of the two is shown wrongly: with {_said(other, symptoms, tried)} too: "
                f"set {other.settings})"
            )
        return [Finding(text + _stopped(tried), best.settings, fatal=True)]
    text = f"{failed}; none of the usual slips in range, mean and std, channel order, layout and classes explains it"
    if tried.found:
        best = max(tried.found, key=lambda one: one.agreement)
        text += f" (best of {tried.count} tries: with {_said(best, symptoms, tried)})"
    text += _stopped(tried)
    if not symptoms.broken and symptoms.comparable is not None:
        text += (
            "; check that both are models of the same classes in the same order, and lower "
            "preflight.min_agreement if they really differ so much"
        )
    return [Finding(text, fatal=True)]


def doubts(symptoms: Symptoms, checked: Checked, tried: Tried, hints: tuple[Finding, ...]) -> list[Finding]:
    """A warning where a pair that agrees is much better when it is shown images in another way."""
    now = symptoms.comparable
    if now is None or checked.agreement is None:
        return []
    least = min(checked.agreement, _CEILING) - _GAIN
    for one in tried.found:
        gains = [one.agreement - checked.agreement]
        if tried.labels is not None:
            after = one.accuracy(tried.labels)
            gains += [after[model] - (checked.accuracy[model] or 0) for model in one.changed]
        better = max(gains) >= _GAIN and accepted(one, now, tried.labels, least)
        if better or (tried.labels is None and hints and revives(one, least)):
            text = (
                f"original and compressed agree on {percent(checked.agreement)} of {checked.n} real images, but with "
                f"{_said(one, symptoms, tried)}: perhaps set {one.settings}"
            )
            unless = "" if better else " (unless the images really are of one class)"
            return [Finding(text + unless + _stopped(tried), one.settings)]
    times, best = unlike(now), explained(now, tried.found, checked.agreement)
    if times is not None and best is not None:
        text = f"one model's scores are {times:.0f} times the other's, but not with {_said(best, symptoms, tried)}"
        return [Finding(f"{text}: perhaps set {best.settings}{_stopped(tried)}", best.settings)]
    return []


def _said(one: Explanation, symptoms: Symptoms, tried: Tried) -> str:
    """How the models are shown images, how far they agree then, and what that does to their accuracies."""
    text = f"{one.words} they agree on {percent(one.agreement)}"
    if tried.labels is None:
        return text
    after = one.accuracy(tried.labels)
    for model in one.changed:
        before = symptoms.figures().accuracy[model]
        instead = "" if before is None else f" instead of {100 * before:.1f}"
        text += f" and the {WHICH[model]} is right on {100 * after[model]:.1f}{instead} %"
    return text


def _stopped(tried: Tried) -> str:
    return "" if tried.seconds is None else f" (not all was tried: stopped after {tried.seconds:g} s)"
