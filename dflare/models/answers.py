"""The scores in what a PyTorch model returns, which need not be a tensor."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dflare.errors import InputError


def scores_in(answer: Any, n: int, name: str) -> Tensor:
    """The tensor of scores for n images, (n, ...), in what a model returned.

    That is a tensor or array itself, `logits` of an object or mapping that has them, or else the first tensor in a
    tuple, list or mapping. Raises `InputError`, with `name` in it, where there is none or not one row an image.
    """
    scores = _found(answer)
    if scores is None:
        raise InputError(
            f"{name} must return a tensor of scores, a tuple, list or dictionary with one, or an object with logits; "
            f"got a {type(answer).__name__}"
        )
    if scores.ndim == 0 or len(scores) != n:
        raise InputError(
            f"{name} must return one row of scores an image, ({n}, classes) for {n} images, "
            f"got {tuple(scores.shape)}; if it was made for one batch size, make it for any"
        )
    return scores


def _found(answer: Any) -> Tensor | None:
    if isinstance(answer, Mapping):
        found = answer.get("logits")
        parts = [found] if found is not None else list(answer.values())
    elif isinstance(answer, (Tensor, np.ndarray)):
        parts = [answer]
    elif getattr(answer, "logits", None) is not None:
        parts = [answer.logits]
    else:
        parts = list(answer) if isinstance(answer, (tuple, list)) else []
    first = next((part for part in parts if isinstance(part, (Tensor, np.ndarray))), None)
    return torch.as_tensor(first) if isinstance(first, np.ndarray) else first
