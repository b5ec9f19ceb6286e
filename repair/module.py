"""The one LightningModule. What to minimise is a function handed in; what to imitate comes with the batch."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn


class Batch(NamedTuple):
    """Images with the answers to imitate; all fields have leading dimension n."""

    images: Tensor  # (n, c, h, w) float32 in [0, 1]
    targets: Tensor  # (n, classes) probabilities: the original's, asked once before the repair, or one-hot labels
    is_trigger: Tensor  # (n,) bool; the others are clean images replayed so that they stay right
    labels: Tensor | None = None  # (n,) int64, the data set's classes, else what the original calls the images

    @property
    def right(self) -> Tensor:
        """The class that each image is of, (n,) int64: its label, where there is none the top target."""
        return self.targets.argmax(-1) if self.labels is None else self.labels


Loss = Callable[[Tensor, Batch], Mapping[str, Tensor]]
"""(student scores (n, classes), batch) -> named scalar terms, which are summed."""

Descent = Callable[[list[nn.Parameter], float], torch.optim.Optimizer]
"""(what may move, learning rate) -> the optimiser that moves it."""


def adam(parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba, 2015) with PyTorch's defaults, all in one kernel where it has one."""
    return torch.optim.Adam(parameters, lr=learning_rate, fused=fused(parameters))


def fused(parameters: list[nn.Parameter]) -> bool:
    """Whether PyTorch has optimisers in one kernel for all of these: floats on CPUs and NVIDIA's or AMD's GPUs."""
    return all(each.device.type in ("cpu", "cuda") and each.is_floating_point() for each in parameters)


class Repair(pl.LightningModule):
    """Fit a student to the targets of its batches; used to train, to distil, to fine-tune and to repair.

    `learning_rate` is constant, or decays to zero along a half cosine over `decay_steps` optimiser steps
    (Loshchilov and Hutter, 2017); it depends on the step alone, so a run that is stopped early has seen the same rates.
    Only parameters that require a gradient move. `anchor` maps the student to one more term of the loss.
    """

    def __init__(
        self,
        student: nn.Module,
        loss: Loss,
        learning_rate: float = 1e-3,
        decay_steps: int = 0,
        descent: Descent = adam,
        anchor: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.student, self.loss, self.descent, self.anchor = student, loss, descent, anchor
        self.learning_rate, self.decay_steps = learning_rate, decay_steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        terms = dict(self.loss(self.student(batch.images), batch))
        if self.anchor is not None:
            terms["anchor"] = self.anchor(self.student)
        if self._is_written():
            self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()})
        return torch.stack(list(terms.values())).sum()

    def _is_written(self) -> bool:
        """Whether a logger writes this step down; collecting what none does would take a third of a small step."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(self.trainer.loggers) and every > 0 and (self.global_step + 1) % every == 0

    def on_train_start(self) -> None:
        """Bring what an optimiser read from a checkpoint into its weights' memory layout, which fused ones rely on."""
        for optimizer in self.trainer.optimizers:
            for weight, state in optimizer.state.items():
                for name, value in state.items():
                    if isinstance(value, Tensor) and value.shape == weight.shape:
                        state[name] = torch.empty_like(weight, dtype=value.dtype, requires_grad=False).copy_(value)

    def on_validation_epoch_start(self) -> None:
        self._agreed: dict[str, list[Tensor]] = {"triggers": [], "clean": []}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        agrees = self.student(batch.images).argmax(-1) == batch.targets.argmax(-1)
        self._agreed["triggers"].append(agrees[batch.is_trigger])
        self._agreed["clean"].append(agrees[~batch.is_trigger])

    def on_validation_epoch_end(self) -> None:
        """Log the shares of triggers and of clean images on which the student agrees, their mean and its error."""
        shares = {name: torch.cat(parts).float() for name, parts in self._agreed.items()}
        present = {f"validate/{name}": share.mean() for name, share in shares.items() if len(share)}
        score = torch.stack(list(present.values())).mean()
        spread = [share.var(unbiased=False) / len(share) for share in shares.values() if len(share)]
        error = torch.stack(spread).sum().sqrt() / len(spread)
        self.log_dict(present | {"validate/score": score, "validate/error": error}, prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> dict[str, object]:  # type: ignore[override]
        parameters = [p for p in self.student.parameters() if p.requires_grad]
        optimizer = self.descent(parameters, self.learning_rate)
        if not self.decay_steps:
            return {"optimizer": optimizer}
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.decay_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
