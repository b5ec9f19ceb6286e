"""How a model is shown images and how its answers are read. Imports no model code, so that settings can use it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

from dflare.errors import InputError

_MOST = 1e30  # of numbers that float32 can still reckon with

LAYOUTS = ("nchw", "nhwc")
CHANNELS = ("grey", "rgb", "bgr")
FITS = ("stretch", "crop")
SCORES = ("logits", "probabilities")


class Takes(NamedTuple):
    """What a model's file says of the images it takes and the scores it returns; None where it says nothing."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    layout: str | None = None  # of `LAYOUTS`
    range: tuple[float, float] | None = None  # black and white, where the type of its input implies them
    scores: str | None = None  # of `SCORES`
    batches: tuple[int, int] = (1, 2**31)  # least and most images that it answers at once


@dataclass(frozen=True)
class Interface:
    """What a model wants to see in place of images in [0, 1], and which of its answers are the scores of the classes.

    None: what the model's file says; where that says nothing either, what stands here in brackets.
    Raises `InputError` for values that make no sense.
    """

    range: Sequence[float] | None = None  # the numbers for black and white (0 and 1)
    mean: Sequence[float] | None = None  # subtracted, in units of the range; one number or one a channel (nothing)
    std: Sequence[float] | None = None  # then divided by; one number or one a channel (nothing)
    channels: str | None = None  # of `CHANNELS` (those of the images)
    layout: str | None = None  # of `LAYOUTS` (nchw)
    fit: str | None = None  # of `FITS`: how images of another size are brought to the model's (they are refused)
    size: Sequence[int] | None = None  # height and width that the model takes (any)
    scores: str | None = None  # of `SCORES` (logits)
    classes: str | None = None  # which of the answers, counted from 0, are class 0, 1, …: "1-1000", "7,0-5" (all)

    def __post_init__(self) -> None:
        self.check()

    def check(self, prefix: str = "") -> None:
        """Raise `InputError` for the first value that makes no sense; `prefix` stands before its name."""
        for name, choices in (("channels", CHANNELS), ("layout", LAYOUTS), ("fit", FITS), ("scores", SCORES)):
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise InputError(f"{prefix}{name} must be one of {', '.join(choices)}, got {value!r}")
        _check_range(self.range, prefix)
        _check_numbers(self.mean, self.std, prefix)
        if self.size is not None and not (len(self.size) == 2 and all(1 <= side <= 2**14 for side in self.size)):
            raise InputError(f"{prefix}size must be height and width in pixels, such as [224,224], got {self.size}")
        if self.classes is not None:
            chosen_classes(self.classes, f"{prefix}classes")

    def over(self, other: "Interface") -> "Interface":
        """This interface with what it leaves open taken from another."""
        mine = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return replace(other, **{name: value for name, value in mine.items() if value is not None})

    def completed(self, takes: Takes) -> "Interface":
        """This interface with what it leaves open taken from what the model's file says, and then from the brackets."""
        known = None if takes.height is None or takes.width is None else (takes.height, takes.width)
        said = Interface(range=takes.range, layout=takes.layout, size=known, scores=takes.scores)
        return self.over(said.over(Interface(range=(0, 1), layout="nchw", scores="logits")))


def chosen_classes(text: str, name: str = "classes") -> list[int]:
    """The numbers in a list of numbers and ranges, both ends included: "7,0-2" is 7, 0, 1, 2.

    Raises `InputError`, with `name` in it, for anything else, for a repeated number, and for fewer than two.
    """
    chosen: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,6})(?:\s*-\s*(\d{1,6}))?\s*", part)
        if found is None:
            raise InputError(f'{name} must be numbers and ranges such as "1-1000" or "3,0-2", got {text!r}')
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise InputError(f"{name} must have ranges that go up, got {part.strip()!r}")
        chosen += range(first, last + 1)
    if len(chosen) < 2 or len(set(chosen)) < len(chosen):
        raise InputError(f"{name} must name two classes or more, each once, got {text!r}")
    return chosen


def _check_range(ends: Sequence[float] | None, prefix: str) -> None:
    if ends is None:
        return
    if len(ends) != 2 or not all(abs(end) <= _MOST for end in ends) or ends[0] == ends[1]:
        raise InputError(f"{prefix}range must be two numbers, for black and for white, such as [0,255], got {ends}")


def _check_numbers(mean: Sequence[float] | None, std: Sequence[float] | None, prefix: str) -> None:
    for name, numbers, low, kind in (("mean", mean, -_MOST, "finite"), ("std", std, 1 / _MOST, "positive")):
        if numbers is not None and not (numbers and all(low <= number <= _MOST for number in numbers)):
            raise InputError(f"{prefix}{name} must be {kind} numbers, one or one a channel, got {list(numbers)}")
    if mean is not None and std is not None and len(mean) != len(std) and 1 not in (len(mean), len(std)):
        raise InputError(f"{prefix}mean and {prefix}std must be of one length, got {len(mean)} and {len(std)}")
