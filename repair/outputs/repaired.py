"""A compressed model with a head behind it, as a classifier like any other."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dflare.classifiers import Classifier, check_scores
from dflare.models.moving import move_module
from repair.outputs.checking import check_head
from repair.outputs.head import Head
from repair.outputs.head_file import load_head


class Corrected:
    """A `Classifier`: the scores (n, classes) of another one, corrected by a head; `name` says whose head it is.

    The head computes on the CPU, wherever the model does. Raises `InputError` when asked, if the head was made for
    another number of classes.
    """

    def __init__(self, classifier: Classifier, head: Head, name: str = "the head") -> None:
        self.classifier, self.head, self.name = classifier, head, name
        self._classes: int | None = None

    def __call__(self, images: Tensor) -> Tensor:
        scores = check_scores(self.classifier(images), len(images), "compressed")
        if self._classes is None:
            check_head(self.head, self.name, scores.shape[1])
            self._classes = scores.shape[1]
        return torch.from_numpy(self.head(scores.detach().cpu().numpy())).to(scores.device)

    def to(self, device: torch.device) -> str | None:
        """The model in front of the head computes on a device from now on; None, or why it stays."""
        model: Any = getattr(self.classifier, "model", self.classifier)  # of a `Shown`
        if isinstance(model, nn.Module):
            move_module(model, device)
            return None
        if not hasattr(model, "to"):
            return f"a {type(model).__name__} says not how to move it"
        why: str | None = model.to(device)
        return why


def corrected(classifier: Classifier, path: Path) -> Corrected:
    """A classifier with the head in a file behind it; raises `InputError` for a file that holds no head."""
    return Corrected(classifier, load_head(path), str(path))
