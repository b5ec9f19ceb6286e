"""Whether a pair is shown real images rightly: asked before any search, and diagnosed where it is not."""

from dataclasses import replace

from torch import Tensor

from dflare.classifiers import check_images, to_unit
from dflare.models.shown import Shown
from dflare.parity.advice import Tried, diagnosed, doubts
from dflare.parity.checked import Checked, Finding, percent
from dflare.parity.diagnosis import explanations, informative, sieve_size
from dflare.parity.questions import Questions, asked, choose
from dflare.parity.scale import unlike
from dflare.parity.symptoms import Symptoms, are_probabilities, fitting_labels

SECONDS = 60.0
"""Asking the models in other ways goes on about so long."""

_DOUBTFUL, _WEAK = 0.95, 0.9  # agreement and accuracy below which other ways are tried although the pair passes
_SHORTER = 3  # times shorter are the tries then


def preflight(
    original: Shown,
    compressed: Shown,
    images: Tensor,
    labels: Tensor | None,
    min_agreement: float,
    *,
    label_count: int | None = None,
    seconds: float = SECONDS,
) -> Checked:
    """What a pair says of known images, uint8 (n, c, h, w), and what is wrong with how they are shown them.

    Below `min_agreement` in [0, 1] the usual slips are tried on either model and on both, for about `seconds` (0: not
    at all); `labels` (n,), where they fit the classes, tell which of the two is shown wrongly, and whether both are.
    `label_count` is how many classes the labels are of, where that is known.
    Raises `InputError` for images that a model's interface refuses.
    """
    check_images(images)
    for model in (original, compressed):
        model.show(to_unit(images[:1]))
    answers = [asked(model, model.interface, images) for model in (original, compressed)]
    scores = _chosen(original, answers[0]), _chosen(compressed, answers[1])
    counts = [one.shape[1] for one in scores if isinstance(one, Tensor)]
    symptoms = Symptoms(scores, images, fitting_labels(labels, counts, label_count))
    alike = [isinstance(one, Tensor) and are_probabilities(one) for one in answers]
    checked = replace(symptoms.figures(), probabilities=(alike[0], alike[1]))
    hints = tuple(symptoms.one_answer)
    failed = _failed(symptoms, checked, min_agreement)
    far = len(counts) == 2 and abs(counts[0] - counts[1]) > 1
    if far or seconds <= 0 or not (failed or hints or _doubtful(symptoms, checked)):
        advice = "; choose those of the larger one with models.*.classes" if far else ""
        return replace(checked, findings=((Finding(failed + advice, fatal=True), *hints) if failed else hints))
    tried = _tried((original, compressed), symptoms, counts, seconds if failed else seconds / _SHORTER)
    found = diagnosed(failed, symptoms, tried, min_agreement) if failed else doubts(symptoms, checked, tried, hints)
    return replace(checked, findings=(*found, *hints))


def _chosen(model: Shown, answers: Tensor | str) -> Tensor | str:
    return answers if isinstance(answers, str) else choose(answers, model.interface, model.name)


def _tried(models: tuple[Shown, Shown], symptoms: Symptoms, counts: list[int], seconds: float) -> Tried:
    questions = Questions(models, symptoms.images, seconds)
    both = (counts[0], counts[1]) if len(counts) == 2 else None
    sieve, labels = sieve_size(questions), symptoms.labels
    found, count = explanations(questions, both, labels, sieve)
    if labels is not None and not informative(labels, found, symptoms.usable):
        labels = None
        found, count = explanations(questions, both, None, sieve)
    return Tried(found, count, seconds if questions.stopped else None, labels)


def _failed(symptoms: Symptoms, checked: Checked, min_agreement: float) -> str:
    """In words why the pair cannot be searched as it is; empty where it can."""
    if symptoms.broken:
        return "; ".join(symptoms.broken.values())
    if checked.agreement is None:
        return (
            f"the two models must know the same classes, got {checked.classes[0]} from the original and "
            f"{checked.classes[1]} from the compressed"
        )
    if checked.agreement < min_agreement:
        return (
            f"original and compressed agree on {percent(checked.agreement)} of {checked.n} real images, expected "
            f"{100 * min_agreement:g} % (preflight.min_agreement)"
        )
    return ""


def _doubtful(symptoms: Symptoms, checked: Checked) -> bool:
    now = symptoms.comparable
    if now is not None and unlike(now) is not None:
        return True
    weak = any(share is not None and share < _WEAK for share in checked.accuracy)
    return weak or (checked.agreement is not None and checked.agreement < _DOUBTFUL)
