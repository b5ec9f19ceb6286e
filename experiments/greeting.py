"""The first images that a pair is shown: what does not fit is said before any work."""

import sys
from dataclasses import replace
from typing import Any

from dflare.errors import InputError
from dflare.models.shown import Shown
from dflare.parity.checked import Checked, percent
from dflare.parity.preflight import SECONDS, preflight
from dflare.parity.symptoms import are_probabilities
from dflare.triggers import Side
from experiments.config import Config
from experiments.opening import WHICH
from experiments.subject import Subject
from experiments.terminal import say

_FAST_DEV_IMAGES = 8


def greeted(subject: Subject, settings: Config) -> Subject:
    """The subject, once both models have answered real images of the train side; one's own must agree on them.

    Scores of one's own models that turn out to be probabilities are read as such from then on.
    Raises `InputError` for what cannot be searched, with the setting that repairs it where one does.
    """
    pair = subject.pair()
    if settings.pair.name is not None or not isinstance(pair.original, Shown) or not isinstance(pair.compressed, Shown):
        return _known(subject)
    wanted = _FAST_DEV_IMAGES if settings.fast_dev else settings.preflight.images
    seeds = subject.sides[Side.train].take(slice(0, wanted))
    checked = preflight(
        pair.original,
        pair.compressed,
        seeds.images,
        seeds.labels,
        0.0 if settings.fast_dev else settings.preflight.min_agreement,
        label_count=len(subject.class_names) or None,
        seconds=0 if settings.fast_dev else SECONDS,
    )
    checked.require()
    say(f"pre-flight: {_sentence(checked)}")
    for warning in checked.warnings:
        print(f"dflare: warning: {warning.text}", file=sys.stderr)
    return replace(_read_as_probabilities(subject, checked), preflight=_recorded(checked))


def _known(subject: Subject) -> Subject:
    """A pair of the zoo, once it has answered two images."""
    outputs = subject.pair()(subject.sides[Side.train].images[:2])
    for name, scores in zip(WHICH, outputs, strict=True):
        if are_probabilities(scores):
            raise InputError(
                f"the {name} model must return scores before the softmax (logits), got probabilities that sum to 1; "
                "export it without its last softmax"
            )
    return subject


def _recorded(checked: Checked) -> dict[str, Any]:
    """What was found, as plain JSON."""
    accuracy = dict(zip(WHICH, checked.accuracy, strict=True))
    warnings = [warning.text for warning in checked.warnings]
    return {"images": checked.n, "agreed": checked.agreed, "accuracy": accuracy, "warnings": warnings}


def _sentence(checked: Checked) -> str:
    agreement = "an unknown share" if checked.agreement is None else percent(checked.agreement)
    first, second = checked.accuracy
    right = "" if first is None or second is None else f" (accuracy {100 * first:.1f} and {100 * second:.1f} %)"
    return f"original and compressed agree on {agreement} of {checked.n} real images{right}"


def _read_as_probabilities(subject: Subject, checked: Checked) -> Subject:
    """The subject with what was found out about scores of which neither settings nor file say anything."""
    pair, sources = subject.pair(), dict(subject.sources)
    for which, model, found in zip(WHICH, (pair.original, pair.compressed), checked.probabilities, strict=True):
        assert isinstance(model, Shown)
        source = sources[which]
        if found and source.interface.scores is None and model.takes.scores is None:
            sources[which] = replace(source, interface=replace(source.interface, scores="probabilities"))
    if sources == subject.sources:
        return subject
    return replace(
        subject,
        sources=sources,
        open_original=sources["original"].open,
        open_compressed=sources["compressed"].open,
        opened={},
    )
