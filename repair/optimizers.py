"""How a recipe's weights are moved: optimisers and the course of their learning rate, by name."""

from collections.abc import Callable

import torch
from torch import nn

from repair.module import Descent, adam, fused


def sgd(parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum 0.9 (Sutskever et al., 2013), as BIRDNN's retraining uses it."""
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9, fused=fused(parameters))


def adamw(parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay 0.01 (Loshchilov and Hutter, 2019), which draws weights to zero."""
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01, fused=fused(parameters))


OPTIMIZERS: dict[str, Descent] = {"adam": adam, "sgd": sgd, "adamw": adamw}

SCHEDULES: dict[str, Callable[[int], int]] = {"cosine": lambda steps: steps, "constant": lambda steps: 0}
"""Name -> over how many of a training's steps its learning rate decays to zero along a half cosine; 0: it stays."""
