"""What a repair minimises. Each loss names its terms; the module sums them."""

import torch.nn.functional as F
from torch import Tensor

from repair.module import Batch, Loss


def imitation(scores: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Cross-entropy to the target probabilities, triggers and clean images averaged apart.

    Its gradient is that of the KL divergence from the original's probabilities (Hinton et al., 2015, temperature 1).
    """
    each = F.cross_entropy(scores, batch.targets, reduction="none")
    groups = (("triggers", batch.is_trigger), ("clean", ~batch.is_trigger))
    return {name: (each * rows).sum() / rows.sum().clamp(min=1) for name, rows in groups}


LOSSES: dict[str, Loss] = {"imitation": imitation}
