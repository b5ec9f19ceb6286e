"""Heads that add to the compressed model's scores: the identity at first, they learn the original's probabilities."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from repair.outputs.head import Scores

ITERATIONS = 150
"""Of L-BFGS at most, each over all images; the loss has stopped falling by then on LeNet-5's pairs."""

DECAY = 1e-4
"""Of the squared weights of the last layer, in the loss: no correction where the images do not ask for one."""


Rule = Callable[[dict[str, Tensor], Tensor], Tensor]
"""Weights and standardised features (n, classes) to corrections (n, classes)."""


class Learnt(NamedTuple):
    """The arrays of a correction and how many iterations it took."""

    arrays: dict[str, np.ndarray]
    steps: int


def learn_shift(values: Scores, inputs: Scores, targets: Scores, steps: int) -> Learnt:
    """A linear map of the inputs (n, classes) that, added to the values (n, classes), gives the targets.

    `values` are relative logarithms of the compressed model's probabilities, `targets` (n, classes) the original's
    probabilities. At first the map is 0.
    """
    classes = values.shape[1]
    start = {"weight": torch.zeros(classes, classes), "bias": torch.zeros(classes)}
    return _fitted(start, lambda weights, x: x @ weights["weight"] + weights["bias"], values, inputs, targets, steps)


def learn_residual(values: Scores, inputs: Scores, targets: Scores, steps: int, hidden: int, seed: int) -> Learnt:
    """A layer of ReLUs in the same place; its second layer is 0 at first, its first one drawn at random."""
    classes, generator = values.shape[1], torch.Generator().manual_seed(seed)
    start = {
        "weight_0": torch.randn(classes, hidden, generator=generator) / classes**0.5,
        "bias_0": torch.zeros(hidden),
        "weight_1": torch.zeros(hidden, classes),
        "bias_1": torch.zeros(classes),
    }
    return _fitted(start, _layers, values, inputs, targets, steps)


def _layers(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    hidden = (x @ weights["weight_0"] + weights["bias_0"]).relu()
    return hidden @ weights["weight_1"] + weights["bias_1"]


def _fitted(
    start: dict[str, Tensor], rule: Rule, values: Scores, inputs: Scores, targets: Scores, steps: int
) -> Learnt:
    """Cross-entropy to the targets with `DECAY`, minimised in float64 by L-BFGS (Liu and Nocedal, 1989)."""
    known, x, wanted = (torch.from_numpy(np.array(array, np.float64)) for array in (values, inputs, targets))
    weights = {name: weight.double().requires_grad_() for name, weight in start.items()}
    last = list(weights.values())[-2:]
    search = torch.optim.LBFGS(list(weights.values()), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        decay = sum(weight.square().sum() for weight in last)
        loss = cross_entropy(known + rule(weights, x), wanted) + DECAY * decay
        loss.backward()
        return loss

    with torch.enable_grad(), torch.inference_mode(False):
        search.step(closure)
    taken = int(search.state_dict()["state"][0]["n_iter"])
    return Learnt({name: weight.detach().float().numpy() for name, weight in weights.items()}, taken)
