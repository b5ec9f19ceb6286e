"""Usual slips in how a model is shown images, each as the interface that would repair it."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from itertools import product
from typing import NamedTuple

from dflare.models.interface import Interface, Takes

MOST = 60
"""Interfaces tried for one model, the nearest to the present one first."""


class Values(NamedTuple):
    """Numbers that a model sees in place of black and white, and what people call them."""

    range: Sequence[float]
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    name: str = ""
    order: str = "rgb"  # of mean and std; empty: as they stand in any order of the channels


_PLAIN = [Values((0, 1)), Values((0, 255)), Values((-1, 1))]  # (-1, 1) is also mean 0.5 and std 0.5
_COLOUR = [
    Values((0, 1), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "ImageNet"),  # torchvision
    Values((0, 1), (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616), "CIFAR-10"),
    Values((0, 1), (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201), "CIFAR-10"),  # std of a much copied script
    Values((0, 1), (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), "CIFAR-100"),
    Values((0, 255), (103.939, 116.779, 123.68), None, "Caffe", "bgr"),  # of VGG, and of Keras in its mode "caffe"
]
HALF = "0.5/0.5"
_GREY = [
    Values((0, 1), (0.1307,), (0.3081,), "MNIST"),
    Values((0, 1), (0.286,), (0.353,), "Fashion-MNIST"),
]
PRESETS = [*dict.fromkeys(values.name for values in (*_COLOUR, *_GREY)), HALF]
"""Names of usual means and standard deviations, the most usual first."""

_INVERTED = [
    Values((1, 0), name="inverted"),
    Values((255, 0), name="inverted"),
    Values((1, -1), name="inverted"),
    Values((1, 0), (0.1307,), (0.3081,), "inverted MNIST"),
]


def usual_interfaces(
    now: Interface, other: Interface, takes: Takes, channels: int, mean: Sequence[float], std: Sequence[float]
) -> list[Interface]:
    """The present interface of a model and the usual others, at most `MOST`, no two that show the same numbers.

    `now` and `other` are the completed interfaces of the model and of its partner, whose numbers are tried too.
    `channels` are the images', `mean` and `std` theirs in [0, 1], a number for each channel. Layouts are tried where
    the file does not fix them, channel orders where images and model have three. Those that change least come first.
    """
    seen_channels = channels_shown(now, takes, channels)
    orders = ["rgb", "bgr"] if channels == seen_channels == 3 else [None]
    free = takes.layout is None or takes.channels is None
    layouts = ["nchw", "nhwc"] if free else list(dict.fromkeys([now.layout, takes.layout]))
    found = {numbers_seen(now, seen_channels): now}
    tried = [
        _shown_as(now, values, order, layout, seen_channels)
        for values in _values(now, other, seen_channels, channels, mean, std)
        for order, layout in product(orders, layouts)
    ]
    for interface in sorted(tried, key=lambda one: len(differences(now, one))):
        found.setdefault(numbers_seen(interface, seen_channels), interface)
    return list(found.values())[:MOST]


def channels_shown(interface: Interface, takes: Takes, channels: int) -> int:
    """How many channels a model sees of images with `channels`."""
    return {None: takes.channels or channels, "grey": 1, "rgb": 3, "bgr": 3}[interface.channels]


def numbers_seen(interface: Interface, seen: int) -> tuple[object, ...]:
    """Equal for interfaces that show the same numbers: slope and offset of each of `seen` channels, order, layout."""
    black, white = interface.range or (0, 1)
    lines = []
    for channel in range(seen):
        mean, std = (
            (numbers or [default])[channel if len(numbers or [default]) > 1 else 0]
            for numbers, default in ((interface.mean, 0.0), (interface.std, 1.0))
        )
        lines.append((f"{(white - black) / std:.4g}", f"{(black - mean) / std:.4g}"))
    return (*lines, interface.channels == "bgr", interface.layout)


def differences(now: Interface, new: Interface) -> dict[str, str]:
    """Setting -> value, as the command line takes it, of all that differs; lists are without blanks."""
    changed = {}
    for name in (entry.name for entry in fields(Interface)):
        old, value = getattr(now, name), getattr(new, name)
        if name in ("mean", "std"):
            neutral = [0.0] if name == "mean" else [1.0]  # a null would be looked up in models.both
            old, value = old or neutral, value or neutral
        if name == "channels":
            old, value = old or "rgb", value or "rgb"
        if isinstance(value, str) or value is None:
            if value is not None and value != old:
                changed[name] = value
        elif old is None or [float(one) for one in old] != [float(one) for one in value]:
            changed[name] = "[" + ",".join(f"{one:g}" for one in value) + "]"
    return changed


def preset(interface: Interface) -> str:
    """What people call the numbers that an interface subtracts and divides by, one of `PRESETS`, or nothing."""
    ends, mean, std = tuple(interface.range or (0, 1)), list(interface.mean or [0.0]), list(interface.std or [1.0])
    if not any(mean) and all(one == 1 for one in std):
        return HALF if ends == (-1, 1) else ""
    for values in (*_COLOUR, *_GREY):
        for step in (1, -1):
            numbers = list(values.mean or ())[::step], list(values.std or [1.0])[::step]
            if ends == tuple(values.range) and numbers == (mean, std):
                return values.name
    return ""


def words(now: Interface, new: Interface, name: str = "") -> str:
    """What differs in words that follow "shown": "in the range [0,255] and as bgr"; `name` is whose mean and std."""
    changed = differences(now, new)
    parts = []
    if "range" in changed:
        inverted = " (inverted)" if new.range and new.range[0] > new.range[1] else ""
        parts.append(f"in the range {changed['range']}{inverted}")
    if "mean" in changed or "std" in changed:
        parts.append(_normalised(new, name))
    if "channels" in changed:
        parts.append(f"as {changed['channels']}")
    if "layout" in changed:
        parts.append(f"as {changed['layout']}")
    if "classes" in changed:
        parts.append(f"with the classes {changed['classes']}")
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _normalised(new: Interface, name: str) -> str:
    mean, std = new.mean or [0.0], new.std or [1.0]
    if not any(mean) and all(one == 1 for one in std):
        return "without mean and std"
    whose = name or preset(new)
    if not whose:
        return "with other mean and std"
    return f"with mean and std of {whose}" if new.std else f"with the mean of {whose}"


def is_measured(interface: Interface, mean: Sequence[float]) -> bool:
    """Whether an interface subtracts the images' own mean, which stands for numbers that nobody has a name for."""
    return interface.mean is not None and sorted(interface.mean) in [sorted(one) for one in _measured(mean)]


def _measured(mean: Sequence[float]) -> tuple[list[float], list[float]]:
    """The images' mean in units of 1 and in grey levels."""
    return [round(one, 4) for one in mean], [round(255 * one, 2) for one in mean]


def _values(
    now: Interface, other: Interface, seen: int, channels: int, mean: Sequence[float], std: Sequence[float]
) -> Iterator[Values]:
    """What is tried as range, mean and std; the most usual first."""
    yield from _PLAIN
    yield from _COLOUR if seen == 3 else _GREY
    if channels == 1:
        yield from _INVERTED
    for known in (other, now):
        yield Values(known.range or (0, 1))
        if known.mean is not None or known.std is not None:
            for ends, order in product(dict.fromkeys((tuple(known.range or (0, 1)), (0, 1), (0, 255))), ("", "rgb")):
                yield Values(ends, known.mean, known.std, order=order)
    if len(mean) == seen:
        units, levels = _measured(mean)
        yield Values((0, 1), units, [round(max(one, 1e-4), 4) for one in std])
        yield Values((0, 1), units)
        yield Values((0, 255), levels)


def _shown_as(now: Interface, values: Values, order: str | None, layout: str | None, seen: int) -> Interface:
    """The present interface with other numbers, channel order and layout."""
    turned = order is not None and values.order not in (order, "")
    mean, std = (_per_channel(numbers, seen, turned) for numbers in (values.mean, values.std))
    channels = now.channels if order is None or order == (now.channels or "rgb") else order
    return replace(now, range=tuple(values.range), mean=mean, std=std, channels=channels, layout=layout)


def _per_channel(numbers: Sequence[float] | None, seen: int, turned: bool) -> Sequence[float] | None:
    if numbers is None or len(numbers) not in (1, seen):
        return None
    return list(reversed(numbers)) if turned else list(numbers)
