"""Classifiers that compute on a device, asked and answering on the CPU."""

import sys
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dflare.classifiers import Classifier
from dflare.models.moving import move_module, without_tf32
from dflare.models.shown import Shown

CPU = torch.device("cpu")


class Movable(Protocol):
    """A model that may compute on another device; wherever that is, its answers lie where the values lay."""

    def to(self, device: torch.device) -> str | None:
        """Compute there from now on; None, or why it stays where it is."""
        ...


def _say(why: str) -> None:
    print(f"a model stays on the CPU: {why}", file=sys.stderr)


def place(classifier: Classifier, device: torch.device, tell: Callable[[str], object] = _say) -> Classifier:
    """The classifier, with images prepared and the model asked on a device; the model itself is moved there.

    It is asked with images on the CPU and answers there, float32. A model that cannot be moved, and one that fails on
    the device with its first batch and not on the CPU, stays on the CPU; `tell` hears why, once. Float32 is computed
    as such (no TF32, for the whole process), and without autocast unless the caller is inside of one.
    """
    if device.type == "cpu":
        return classifier
    model = classifier.model if isinstance(classifier, Shown) else classifier
    without_tf32()
    reason = _moved(model, device)
    if reason is not None:
        tell(reason)
        return classifier
    return Placed(classifier, model, device, tell)


class Placed:
    """A classifier whose model has been moved to a device; see `place`. `device` is where it computes now."""

    def __init__(self, classifier: Classifier, model: Any, device: torch.device, tell: Callable[[str], object]) -> None:
        self.classifier, self.model, self.device = classifier, model, device
        self._tell, self._proved = tell, False

    def __call__(self, images: Tensor) -> Tensor:
        if self.device == CPU:
            return self.classifier(images)
        try:
            scores = self._ask(images)
        except Exception as error:  # of any runtime: out of memory, no kernel, none that is deterministic
            if self._proved:
                raise
            return self._stay(images, error)
        self._proved = True
        return scores

    def _ask(self, images: Tensor) -> Tensor:
        if self.device.type == "cuda":
            images = images.pin_memory()  # without which the copy would wait
        return self.classifier(images.to(self.device, non_blocking=True)).to("cpu", torch.float32)

    def _stay(self, images: Tensor, error: Exception) -> Tensor:
        """The scores from the CPU; raises what the model raises there, which then is no matter of the device."""
        device, self.device = self.device, CPU
        _moved(self.model, CPU)
        scores = self.classifier(images)
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        self._tell(f"it fails on {device}: {first}")
        return scores


def _moved(model: Any, device: torch.device) -> str | None:
    """Move a model; None, or why it stays."""
    try:
        if isinstance(model, nn.Module):
            move_module(model, device)
            return None
        to = getattr(model, "to", None)
        if to is None:
            return f"a {type(model).__name__} says not how to move it"
        return to(device)
    except (RuntimeError, AssertionError) as error:  # no memory, no such device, a torch without CUDA
        if device == CPU:
            raise
        _moved(model, CPU)
        return f"it cannot be moved to {device}: {(str(error).strip().splitlines() or ['no reason given'])[0]}"
