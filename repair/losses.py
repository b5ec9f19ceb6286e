"""What a repair minimises. Each loss names its terms; the module sums them.

Numbers that a recipe may set are keyword-only arguments. Triggers and clean images are averaged apart, so that their
shares of a batch do not say how much each counts; where there are none of a kind, its term is 0.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from dflare.errors import InputError
from repair.module import Batch, Loss
from repair.trainable import LEAST


def imitation(scores: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Cross-entropy to the target probabilities, triggers and clean images averaged apart.

    Its gradient is that of the KL divergence from the original's probabilities (Hinton et al., 2015, temperature 1).
    """
    return _apart(F.cross_entropy(scores, batch.targets, reduction="none"), batch)


def labels(scores: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Cross-entropy to one class an image: the data set's label, where there is none what the original calls it."""
    return _apart(F.cross_entropy(scores, batch.right, reduction="none"), batch)


def hinge(scores: Tensor, batch: Batch, *, margin: float = 1.0, fidelity: float = 1.0) -> dict[str, Tensor]:
    """max(0, margin + best wrong - right) on triggers; fidelity * KL(original || student) on clean images.

    The multi-class hinge of K. Crammer and Y. Singer (JMLR 2, 2001), zero once the original's label leads by
    `margin` (in scores, >= 0): what is repaired is left alone. `fidelity` (>= 0) weighs staying as the original is.
    """
    right = batch.targets.argmax(-1, keepdim=True)
    short = _shortfall(scores, right, margin)
    entropy = -torch.special.xlogy(batch.targets, batch.targets).sum(-1)
    distance = F.cross_entropy(scores, batch.targets, reduction="none") - entropy
    return {"triggers": _mean(short, batch.is_trigger), "clean": fidelity * _mean(distance, ~batch.is_trigger)}


def lead(scores: Tensor, batch: Batch, *, margin: float = 0.3, strength: float = 0.25) -> dict[str, Tensor]:
    """Imitation + strength * max(0, margin + best wrong - right), the hinge on triggers and on clean images.

    For students with few weights, which cannot follow the original's probabilities everywhere: the hinge spends what
    they have on who leads. It bends the borders of students that can follow (a probe then deviates more, not less).
    `margin` in scores, `strength` >= 0; right is what the original says.
    """
    said = imitation(scores, batch)
    short = _apart(_shortfall(scores, batch.targets.argmax(-1, keepdim=True), margin), batch)
    return said | {f"lead of {kind}": strength * term for kind, term in short.items()}


def by_margin(scores: Tensor, batch: Batch, *, offset: float = 0.3) -> dict[str, Tensor]:
    """Imitation in which a trigger weighs 1 / (margin + offset): those near the original's own boundary count most.

    The margin is the difference of the original's two top probabilities, in [0, 1]; `offset` > 0. Weights are divided
    by their sum over the batch's triggers, so what they share out is the attention among triggers and never more of
    it than the clean images leave: a placebo, whose images have large margins, trains with the same force.
    """
    each = F.cross_entropy(scores, batch.targets, reduction="none")
    top = batch.targets.topk(2, -1).values
    weight = batch.is_trigger / (top[:, 0] - top[:, 1] + offset)
    triggers = (each * weight).sum() / weight.sum().clamp(min=LEAST)
    return {"triggers": triggers, "clean": _mean(each, ~batch.is_trigger)}


def logits(scores: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Mean squared difference of centred logits (J. Ba and R. Caruana, NIPS 2014).

    A softmax forgets the mean of the logits, so both sides are taken relative to theirs, and the original's are the
    logarithms of its probabilities, of 1e-30 at least.
    """
    wanted = batch.targets.clamp(min=LEAST).log()
    gap = (scores - scores.mean(-1, keepdim=True)) - (wanted - wanted.mean(-1, keepdim=True))
    return _apart(gap.square().mean(-1), batch)


def calibrated(scores: Tensor, batch: Batch, *, strength: float = 1.0) -> dict[str, Tensor]:
    """Imitation + strength * MDCA, the mean over classes of |mean probability - mean target| in the batch.

    R. Hebbalaguppe et al., "A stitch in time saves nine: a train-time regularizing loss for improved neural network
    calibration" (CVPR 2022), equation 4, with the original's probabilities in place of counted labels: confidence is
    to be the original's on average also where single images cannot follow it. `strength` >= 0, theirs is beta.
    """
    gap = scores.softmax(-1).mean(0) - batch.targets.mean(0)
    return imitation(scores, batch) | {"calibration": strength * gap.abs().mean()}


def soft(scores: Tensor, batch: Batch, *, temperature: float = 4.0) -> dict[str, Tensor]:
    """Imitation of the original's probabilities at a temperature T > 0, times T^2 (Hinton et al., 2015, section 2).

    p^(1/T), made to sum to 1, against the softmax of scores / T: above 1 the classes that the original nearly rules
    out count more. T = 1 is `imitation`; for large T the slope becomes half that of `logits`. For networks of few bits:
    Z. Shen et al., "S2-BNN: bridging the gap between self-supervised real and 1-bit neural networks via guided
    distribution calibration" (CVPR 2021), teach theirs by a real one's distribution, without labels; their
    contrastive learning is left out.
    """
    wanted = (batch.targets.clamp(min=LEAST).log() / temperature).softmax(-1)
    each = temperature**2 * F.cross_entropy(scores / temperature, wanted, reduction="none")
    return _apart(each, batch)


LOSSES: dict[str, Callable[..., Mapping[str, Tensor]]] = {
    "imitation": imitation,
    "labels": labels,
    "hinge": hinge,
    "lead": lead,
    "margin": by_margin,
    "logits": logits,
    "calibrated": calibrated,
    "soft": soft,
}
"""Name -> loss, which takes student scores (n, classes), a batch, and its own options by name."""


POSITIVE = {"offset", "temperature"}
"""Options that are divided by, by name."""


def loss_options(name: str) -> dict[str, float]:
    """The options of a loss with their defaults."""
    found = inspect.signature(LOSSES[name]).parameters.values()
    return {option.name: option.default for option in found if option.kind is option.KEYWORD_ONLY}


def make_loss(name: str, options: Mapping[str, float]) -> Loss:
    """The loss of that name with some of its options set; raises `InputError` for unknown ones and for those of 0."""
    if unknown := sorted(set(options) - set(loss_options(name))):
        known = ", ".join(loss_options(name)) or "none"
        raise InputError(f"options of the loss {name} must be some of: {known}; got {unknown[0]!r}")
    for option in POSITIVE & set(options):
        if not options[option] > 0:
            raise InputError(f"options.{option} of the loss {name} must be above 0, got {options[option]}")
    return partial(LOSSES[name], **options)


def _shortfall(scores: Tensor, right: Tensor, margin: float) -> Tensor:
    """max(0, margin + best wrong score - right one), (n,) from scores (n, classes) and the right class (n, 1)."""
    wrong = scores.scatter(-1, right, -torch.inf).amax(-1)
    return (margin + wrong - scores.gather(-1, right).squeeze(-1)).clamp(min=0)


def _apart(each: Tensor, batch: Batch) -> dict[str, Tensor]:
    return {"triggers": _mean(each, batch.is_trigger), "clean": _mean(each, ~batch.is_trigger)}


def _mean(each: Tensor, rows: Tensor) -> Tensor:
    """The mean over the rows of a mask, 0 where there are none."""
    return (each * rows).sum() / rows.sum().clamp(min=1)
