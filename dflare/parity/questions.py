"""What two models say of the same images when they are shown them in other ways."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dflare.classifiers import Outputs, check_images, to_unit
from dflare.errors import InputError
from dflare.models.interface import Interface, chosen_classes
from dflare.models.shown import Shown

PART = 50
"""Images asked at once, fewer where a model takes fewer: photos of 224 x 224 pixels are 30 MB then."""

WHICH = ("original", "compressed")


@dataclass
class Questions:
    """Asks both models about the same images, each way once, until so many were asked about.

    A model that raises is not asked again in that layout: no other numbers would help it.
    """

    models: tuple[Shown, Shown]
    images: Tensor  # uint8 (n, c, h, w)
    left: int  # images that may still be asked about, counted for each model
    stopped: bool = False  # whether something was left out because there were no more
    _known: dict[tuple[int, str, int], Tensor | None] = field(default_factory=dict)
    _raised: set[tuple[int, str | None]] = field(default_factory=set)  # models and layouts

    def __post_init__(self) -> None:
        check_images(self.images)

    def scores(self, model: int, interface: Interface, count: int) -> Tensor | None:
        """Scores (count, classes) of the first images by one of the models shown images in this way.

        None where it fails, where they are no finite scores, and where so many are no longer left.
        """
        answers = self._answers(model, replace(interface, classes=None), count)
        chosen = None if answers is None else choose(answers, interface, "")
        return chosen if isinstance(chosen, Tensor) else None

    def _answers(self, model: int, interface: Interface, count: int) -> Tensor | None:
        key = (model, repr(interface), count)
        if key not in self._known:
            if (model, interface.layout) in self._raised:
                return None
            if count > self.left:
                self.stopped = True
                return None
            self.left -= count
            answers = asked(self.models[model], interface, self.images[:count])
            if isinstance(answers, str):
                self._raised.add((model, interface.layout))
            usable = isinstance(answers, Tensor) and bool(usable_rows(answers).all())
            self._known[key] = answers if isinstance(answers, Tensor) and usable else None
        return self._known[key]


@torch.inference_mode()
def asked(model: Shown, interface: Interface, images: Tensor) -> Tensor | str:
    """What a model answers to uint8 images shown in some way, float32 (n, answers), NaN and infinities among them.

    Whatever classes the interface chooses. In words why there are no answers.
    """
    model = Shown(model.model, replace(interface, classes=None), model.takes, model.name, model.floor)
    try:
        parts = images.split(max(1, min(PART, model.takes.batches[1])))
        answers = [model(to_unit(part)) for part in parts]
        for part, answer in zip(parts, answers, strict=True):
            if answer.ndim != 2 or len(answer) != len(part) or answer.shape[1] < 2:
                return (
                    f"{model.name} must return scores of shape ({len(part)}, classes) for {len(part)} images, "
                    f"got {tuple(answer.shape)}"
                )
        return torch.cat(answers).float()
    except InputError as error:
        return str(error)
    except Exception as error:  # a model of the user's own raises whatever it likes
        reason = (str(error).strip().splitlines() or ["without a word"])[0]
        seen = tuple(model.show(to_unit(images[:PART])).shape)
        return f"{model.name} failed when it was shown images {seen}: {type(error).__name__}: {reason}"


def choose(answers: Tensor, interface: Interface, name: str) -> Tensor | str:
    """The scores of the interface's classes among the answers (n, answers); in words why there are no such classes."""
    if interface.classes is None:
        return answers
    chosen = chosen_classes(interface.classes)
    if max(chosen) < answers.shape[1]:
        return answers[:, chosen]
    return (
        f"classes {interface.classes} of {name} must be answers that it gives, it gives {answers.shape[1]}, "
        "counted from 0"
    )


def usable_rows(scores: Tensor) -> Tensor:
    """For which images there are scores without NaN and +inf, and one above -inf, (n,) bool."""
    return scores.amax(-1).isfinite()


def agreed(scores: tuple[Tensor, Tensor]) -> Tensor:
    """For which images two models' sets of top classes meet, (n,) bool."""
    return ~Outputs(*scores).deviates


def kappa(first: Tensor, second: Tensor, classes: int) -> Tensor:
    """Agreement beyond chance of labels (a, n) with labels (b, n), (a, b) in [-1, 1]; 0 where chance alone gives all.

    J. Cohen, A coefficient of agreement for nominal scales, Educational and Psychological Measurement 20 (1960).
    Two models that say the same of whatever image agree fully, and their kappa is 0.
    """
    same = (first[:, None] == second[None]).float().mean(-1)
    shares = [
        torch.stack([(labels == one).float().mean(-1) for one in range(classes)], -1) for labels in (first, second)
    ]
    chance = shares[0] @ shares[1].T
    return torch.where(chance > 1 - 1e-6, 0, (same - chance) / (1 - chance).clamp(min=1e-6))


def diversity(labels: Tensor, classes: int) -> Tensor:
    """Entropy of labels (a, n) as a share of the greatest possible, (a,) in [0, 1]; 0: one answer for all."""
    n = labels.shape[1]
    shares = torch.stack([torch.bincount(row, minlength=classes).float() / n for row in labels])
    most = torch.tensor(float(max(2, min(classes, n)))).log()
    return -(shares * shares.clamp(min=1e-12).log()).sum(-1) / most


def surely_better(now: Tensor, before: Tensor, z: float) -> bool:
    """Whether more is right now than before, (n,) bool each, beyond McNemar's statistic z."""
    gained, lost = int((now & ~before).sum()), int((before & ~now).sum())
    return gained > lost and (gained - lost) ** 2 > z * z * (gained + lost)
