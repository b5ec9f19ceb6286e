"""Whether a pair is shown real images rightly: asked before any search, and diagnosed where it is not."""

from dataclasses import replace

from torch import Tensor

from dflare.classifiers import check_images, to_unit
from dflare.models.shown import Shown
from dflare.parity.advice import Tried, diagnosed, doubts, left_out
from dflare.parity.budget import budgeted
from dflare.parity.checked import Checked, Finding, percent
from dflare.parity.diagnosis import explanations, informative
from dflare.parity.known_labels import unlike_labels
from dflare.parity.questions import asked, choose
from dflare.parity.scale import unlike
from dflare.parity.symptoms import Symptoms, are_probabilities, fitting_labels

SECONDS = 60.0
"""Asking the models in other ways goes on about so long, on a machine that does nothing else."""

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
    hopeless = any(
        isinstance(one, str) and not (isinstance(answer, str) and _other_layout_helps(model, images))
        for model, one, answer in zip((original, compressed), scores, answers, strict=True)
    )
    if far or hopeless or seconds <= 0 or not (failed or hints or _doubtful(symptoms, checked)):
        advice = "; choose those of the larger one with models.*.classes" if far else ""
        found = [Finding(failed + advice, fatal=True)] if failed else []
        return replace(checked, findings=(*found, *hints, *_of_labels(found, symptoms, labels, label_count)))
    tried = _tried((original, compressed), symptoms, counts, seconds if failed else seconds / _SHORTER)
    found = diagnosed(failed, symptoms, tried, min_agreement) if failed else doubts(symptoms, checked, tried, hints)
    found = found or left_out(tried)
    return replace(checked, findings=(*found, *hints, *_of_labels(found, symptoms, labels, label_count)))


def _chosen(model: Shown, answers: Tensor | str) -> Tensor | str:
    return answers if isinstance(answers, str) else choose(answers, model.interface, model.name)


def _other_layout_helps(model: Shown, images: Tensor) -> bool:
    """Whether a model that raises answers images in the other layout, unless its file says that it takes this one."""
    if model.takes.channels is not None and model.takes.layout == model.interface.layout:
        return False
    other = "nchw" if model.interface.layout == "nhwc" else "nhwc"
    return isinstance(asked(model, replace(model.interface, layout=other), images[:1]), Tensor)


def _of_labels(
    found: list[Finding], symptoms: Symptoms, labels: Tensor | None, label_count: int | None
) -> list[Finding]:
    """What is said of labels that the models do not know, where no other way to show images explains it."""
    counts = [one.shape[1] for one in symptoms.usable]
    near = label_count is None or any(abs(label_count - count) <= 1 for count in counts)
    return unlike_labels(symptoms, labels) if near and not any(one.settings for one in found) else []


def _tried(models: tuple[Shown, Shown], symptoms: Symptoms, counts: list[int], seconds: float) -> Tried:
    questions, sieve = budgeted(models, symptoms.images, seconds)
    both = (counts[0], counts[1]) if len(counts) == 2 else None
    labels, most = symptoms.labels, questions.left
    found, named, count = explanations(questions, both, labels, sieve)
    if labels is not None and found and not informative(labels, found, symptoms.usable):
        labels, questions.left = None, most
        found, named, count = explanations(questions, both, None, sieve)
    return Tried(found, named, count, seconds if questions.stopped else None, labels)


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
