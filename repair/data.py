"""What a repair learns from: triggers mixed with clean images that are replayed so that they stay right."""

from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dflare.classifiers import to_unit
from repair.module import Batch
from repair.orders import Balanced, Order, Shuffled


@dataclass(frozen=True)
class Examples:
    """Images with the original's answers, side by side."""

    images: Tensor  # (n, c, h, w) uint8
    targets: Tensor  # (n, classes) probabilities
    labels: Tensor | None = None  # (n,) int64, the data set's classes; None: what the original calls the images

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: Tensor | slice, is_trigger: bool) -> Batch:
        """Some of them as a batch, selected by mask, index or slice."""
        images, targets = to_unit(self.images[rows]), self.targets[rows]
        labels = targets.argmax(-1) if self.labels is None else self.labels[rows]
        return Batch(images, targets, torch.full((len(images),), is_trigger), labels)


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
            examples.batch(slice(start, start + 1000), is_trigger)
            for examples, is_trigger in zip(self.validate, (True, False), strict=True)
            for start in range(0, len(examples), 1000)
        ]
        return DataLoader(batches, batch_size=None, pin_memory=self._pinned())  # type: ignore[arg-type]

    def _pinned(self) -> bool:
        """Whether batches go to a GPU, to which pinned memory is copied while it computes."""
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
