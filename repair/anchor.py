"""Stay near the weights that came in."""

import torch
from torch import Tensor, nn


class Anchor(nn.Module):
    """`strength` times the mean squared distance of a student's free weights to those that it had, a scalar >= 0.

    The L2-SP penalty of X. Li, Y. Grandvalet and F. Davoine, "Explicit inductive bias for transfer learning with
    convolutional networks" (ICML 2018), whose sum over all weights is a mean here, so that one strength serves
    networks of any size. Measured on the latent weights, which an optimiser moves, and not on projected ones, between
    which there is no way. The start is kept out of checkpoints: it is what the file holds.
    """

    def __init__(self, student: nn.Module, strength: float) -> None:
        super().__init__()
        self.strength = strength
        self.names = [name for name, weight in student.named_parameters() if weight.requires_grad]
        free = dict(student.named_parameters())
        for number, name in enumerate(self.names):
            self.register_buffer(f"start_{number}", free[name].detach().clone(), persistent=False)

    def forward(self, student: nn.Module) -> Tensor:
        now = dict(student.named_parameters())
        starts = (self.get_buffer(f"start_{number}") for number in range(len(self.names)))
        moved = [(now[name] - start).square().sum() for name, start in zip(self.names, starts, strict=True)]
        return self.strength * torch.stack(moved).sum() / sum(now[name].numel() for name in self.names)
