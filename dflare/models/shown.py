"""Models that are shown what they want to see: preprocessing and the reading of scores as part of the classifier."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dflare.errors import InputError
from dflare.models.interface import Interface, Takes, chosen_classes

Model = Callable[[Tensor], Tensor]
"""Float32 values in the layout and range that it wants, n images, to n rows of answers."""

_LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in grey, ITU-R BT.601, as Pillow's mode L takes them."""


class Shown:
    """A `Classifier` of images in [0, 1], float32 (n, c, h, w), from a model that wants to see something else.

    Channels, size, range, mean and std, layout: brought in this order to what the interface says; probabilities are
    turned into logarithms, so that all scores are such that their softmax gives the probabilities; then the classes
    are chosen. What the interface leaves open, the model's file decides (`takes`). `name` says whose images are
    refused; smaller probabilities than `floor` count as that. All steps can be differentiated, and what happens to an
    image does not depend on its batch.
    Raises `InputError` when asked about images that cannot be shown, or when the answers have no such classes.
    """

    def __init__(
        self,
        model: Model,
        interface: Interface = Interface(),  # noqa: B008 (frozen)
        takes: Takes = Takes(),  # noqa: B008
        name: str = "the model",
        floor: float = 0,
    ) -> None:
        self.model, self.takes, self.name, self.floor = model, takes, name, floor
        self.interface = interface.completed(takes)
        text = self.interface.classes
        self._classes = None if text is None else torch.tensor(chosen_classes(text))
        self._steps: dict[tuple[int, ...], list[Callable[[Tensor], Tensor]]] = {}

    def __call__(self, images: Tensor) -> Tensor:
        return self.read(self.model(self.show(images)))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_steps": {}}  # functions on the spot, which cannot be pickled

    def show(self, images: Tensor) -> Tensor:
        """The values that the model sees in place of images in [0, 1], float32 (n, c, h, w)."""
        size = tuple(images.shape[1:])
        if size not in self._steps:
            self._steps[size] = self._planned(*size)
        for step in self._steps[size]:
            images = step(images)
        return images.contiguous()

    def read(self, answers: Tensor) -> Tensor:
        """The scores (n, classes) in the model's answers (n, answers), or (n, answers, 1, 1)."""
        if not isinstance(answers, Tensor):
            raise InputError(f"{self.name} must return one tensor of scores, got a {type(answers).__name__}")
        if answers.ndim > 2 and answers.shape[2:].numel() == 1:
            answers = answers.flatten(1)
        if self.interface.scores == "probabilities":
            answers = logarithms(answers.float().clamp(min=self.floor))
        if self._classes is None:
            return answers
        if answers.ndim != 2 or int(self._classes.max()) >= answers.shape[1]:
            raise InputError(
                f"classes {self.interface.classes} of {self.name} must be answers that it gives, "
                f"it gives {tuple(answers.shape[1:])}, counted from 0"
            )
        return answers.index_select(1, self._classes.to(answers.device))

    def _planned(self, channels: int, height: int, width: int) -> list[Callable[[Tensor], Tensor]]:
        """What happens to images of a size, step by step; raises `InputError` if nothing makes them fit."""
        chosen = self.interface
        now, steps = self._channels(channels)
        steps += self._fitted(height, width)
        if tuple(chosen.range or ()) != (0, 1):
            black, white = chosen.range or (0, 1)
            steps.append(lambda values: values * (white - black) + black if black else values * white)
        for name, numbers in (("mean", chosen.mean), ("std", chosen.std)):
            if numbers is not None and len(numbers) not in (1, now):
                wanted = "1 number" if now == 1 else f"1 or {now} numbers"
                raise InputError(f"the {name} of {self.name} must have {wanted} for {now} channels, got {len(numbers)}")
        if chosen.mean is not None and any(chosen.mean):
            mean = torch.tensor(list(chosen.mean))[:, None, None]
            steps.append(lambda values: values - mean.to(values.device))
        if chosen.std is not None and any(number != 1 for number in chosen.std):
            std = torch.tensor(list(chosen.std))[:, None, None]
            steps.append(lambda values: values / std.to(values.device))
        if chosen.layout == "nhwc":
            steps.append(lambda values: values.permute(0, 2, 3, 1).contiguous())
        return steps

    def _channels(self, came: int) -> tuple[int, list[Callable[[Tensor], Tensor]]]:
        """How many channels the model takes, and how images of another number get them."""
        kind, takes = self.interface.channels, self.takes.channels
        wanted = {None: takes or came, "grey": 1, "rgb": 3, "bgr": 3}[kind]
        if wanted != (takes or wanted) or (came != wanted and {came, wanted} != {1, 3}):
            raise InputError(
                f"{self.name} takes images of {takes or wanted} channels, got {came}"
                + (f" to be shown as {kind}" if kind else "")
            )
        if came == wanted:
            return wanted, [lambda values: values.flip(1)] if kind == "bgr" else []
        if wanted == 3:
            return wanted, [lambda values: values.expand(-1, 3, -1, -1)]
        weights = torch.tensor(_LUMA)[:, None, None]
        return wanted, [lambda values: (values * weights.to(values.device)).sum(1, keepdim=True)]

    def _fitted(self, height: int, width: int) -> list[Callable[[Tensor], Tensor]]:
        """How images of a height and width are brought to the model's."""
        size = self.interface.size
        high, wide = (height, width) if size is None else size
        for known, said, axis in ((self.takes.height, high, "high"), (self.takes.width, wide, "wide")):
            if known is not None and known != said and size is not None:
                raise InputError(
                    f"{self.name} takes images {known} pixels {axis}, its size was said to be {list(size)}"
                )
            if known is not None and size is None:
                high, wide = (known, wide) if axis == "high" else (high, known)
        if (high, wide) == (height, width):
            return []
        if self.interface.fit is None:
            raise InputError(
                f"{self.name} takes images of {high} x {wide} pixels (height x width), got {height} x {width}; "
                "set data.image_size, or models.both.fit=stretch (or crop)"
            )
        if self.interface.fit == "stretch":
            return [lambda values: _resized(values, high, wide)]
        scale = max(high / height, wide / width)
        inner = max(high, round(height * scale)), max(wide, round(width * scale))
        top, left = (inner[0] - high) // 2, (inner[1] - wide) // 2
        return [lambda values: _resized(values, *inner)[:, :, top : top + high, left : left + wide]]


def logarithms(probabilities: Tensor) -> Tensor:
    """log(p / max p), (n, classes): scores whose softmax gives the probabilities back, 0 for the top, -inf for p = 0.

    Negative numbers, which some runtimes' rounding leaves, are to be clamped before. Relative to the greatest, because
    log(p) alone would round two different top probabilities to one score: here tops are tied exactly where they were.
    A row of nothing but zeros, which integers may hold, is a tie of all.
    """
    top = probabilities.amax(-1, keepdim=True)
    return torch.where(top == 0, 1, probabilities / top).log()


def _resized(values: Tensor, height: int, width: int) -> Tensor:
    """Bilinear with antialiasing, (n, c, height, width)."""
    if tuple(values.shape[2:]) == (height, width):
        return values
    return interpolate(values, (height, width), mode="bilinear", align_corners=False, antialias=True)
