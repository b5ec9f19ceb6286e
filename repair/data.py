"""What a repair learns from: triggers mixed with clean images that are replayed so that they stay right."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dflare.classifiers import to_unit
from repair.module import Batch
from repair.orders import Balanced, Order, Shuffled

VALIDATED = 400_000
"""Numbers that a batch of validation shows the model: 510 images of MNIST, 130 of CIFAR-10. So few that activations
stay in a processor's cache (on two cores ResNet-20 takes 1.8 times as long for 1000 images at once), and so many that
quantising the weights again for each costs little."""


@dataclass(frozen=True)
class Examples:
    """Images with the original's answers, side by side."""

    images: Tensor  # (n, c, h, w) uint8, or what a frozen beginning of the student made of them, (n, k) float32
    targets: Tensor  # (n, classes) probabilities
    labels: Tensor | None = None  # (n,) int64, the data set's classes; None: what the original calls the images

    def __len__(self) -> int:
        return len(self.images)

    @property
    def at_once(self) -> int:
        """How many of them are validated in one batch."""
        return max(1, VALIDATED // math.prod(self.images.shape[1:]))

    def batch(self, rows: Tensor | slice, is_trigger: bool) -> Batch:
        """Some of them as a batch, selected by mask, index or slice."""
        images, targets = self.values(rows), self.targets[rows]
        labels = targets.argmax(-1) if self.labels is None else self.labels[rows]
        return Batch(images, targets, torch.full((len(images),), is_trigger), labels)

    def values(self, rows: Tensor | slice) -> Tensor:
        """What a student is shown of some of them: float32 (m, c, h, w) in [0, 1], or activations as they are."""
        chosen = self.images[rows]
        return chosen if chosen.is_floating_point() else to_unit(chosen)


class Mixture(Dataset[Batch]):
    """Batch number i of a training run, a function of (seed, i) alone; `replay` is the share of clean images.

    `groups` (n,) int64 puts the n triggers into groups that are to weigh the same (see `Balanced`); None: all alike.
    """

    def __init__(
        self,
        triggers: Examples,
        clean: Examples,
        batch_size: int,
        replay: float,
        seed: int,
        groups: Tensor | None = None,
    ) -> None:
        self.triggers, self.clean = triggers, clean
        if groups is not None and len(groups) != len(triggers):
            raise ValueError(f"groups must be ({len(triggers)},), one for each trigger, got {tuple(groups.shape)}")
        count = round(batch_size * (1 - replay)) if len(clean) else batch_size
        self.shares = (count, batch_size - count) if len(triggers) else (0, batch_size)
        first: Order = Shuffled(len(triggers), 2 * seed) if groups is None else Balanced(groups, 2 * seed)
        self._orders: tuple[Order, Order] = (first, Shuffled(len(clean), 2 * seed + 1))

    def __getitem__(self, number: int) -> Batch:
        parts = [
            examples.batch(order(number * count, count), is_trigger)
            for examples, order, count, is_trigger in zip(
                (self.triggers, self.clean), self._orders, self.shares, (True, False), strict=True
            )
            if count
        ]
        return parts[0] if len(parts) == 1 else Batch(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def seen(self, steps: int) -> tuple[Tensor, Tensor]:
        """Which triggers and which clean images the first `steps` batches show, row numbers in ascending order."""
        first, second = (
            order(0, steps * count).unique() if count else torch.arange(0)
            for order, count in zip(self._orders, self.shares, strict=True)
        )
        return first, second

    def showing(self, triggers: Examples, clean: Examples) -> "Mixture":
        """The same rows in the same order, of other examples."""
        other = copy.copy(self)
        other.triggers, other.clean = triggers, clean
        return other


class RepairData(pl.LightningDataModule):
    """Epoch e of the training is batches e * epoch_steps … of a `Mixture`; validation is on other seeds' triggers."""

    def __init__(
        self, mixture: Mixture, epoch_steps: int, validate_triggers: Examples, validate_clean: Examples
    ) -> None:
        super().__init__()
        self.mixture, self.epoch_steps = mixture, epoch_steps
        self.validate = (validate_triggers, validate_clean)

    def train_dataloader(self) -> DataLoader[Batch]:
        # from the step and not from Lightning's epoch, which runs ahead when a training is continued twice
        start = self.trainer.global_step if self.trainer is not None else 0
        sampler = list(range(start, start + self.epoch_steps))
        return DataLoader(self.mixture, batch_size=None, sampler=sampler, pin_memory=self._pinned())

    def val_dataloader(self) -> DataLoader[Batch]:
        batches = [
            (examples, slice(start, start + examples.at_once), is_trigger)
            for examples, is_trigger in zip(self.validate, (True, False), strict=True)
            for start in range(0, len(examples), examples.at_once)
        ]
        return DataLoader(_Parts(batches), batch_size=None, pin_memory=self._pinned())

    def _pinned(self) -> bool:
        """Whether batches go to a GPU, to which pinned memory is copied while it computes."""
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"


class _Parts(Dataset[Batch]):
    """Batches of validation, made when they are asked for: as floats all of them would take four times the memory."""

    def __init__(self, parts: Sequence[tuple[Examples, slice, bool]]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> Batch:
        examples, rows, is_trigger = self.parts[number]
        return examples.batch(rows, is_trigger)
