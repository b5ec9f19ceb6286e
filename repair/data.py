"""What a repair learns from: triggers mixed with clean images that are replayed so that they stay right."""

from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dflare.classifiers import to_unit
from repair.module import Batch


@dataclass(frozen=True)
class Examples:
    """Images with the original's answers, side by side."""

    images: Tensor  # (n, c, h, w) uint8
    targets: Tensor  # (n, classes) probabilities

    def __len__(self) -> int:
        return len(self.images)


class _Shuffled:
    """Endless passes over n items, each in an order that depends on (seed, pass) alone."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed = n, seed
        self._orders: dict[int, Tensor] = {}

    def __call__(self, start: int, count: int) -> Tensor:
        """Which items stand at places start … start + count - 1, (count,) int64."""
        places = torch.arange(start, start + count)
        items = torch.empty(count, dtype=torch.int64)
        for number in places.div(self.n, rounding_mode="floor").unique().tolist():
            here = places.div(self.n, rounding_mode="floor") == number
            items[here] = self._order(number)[places[here] % self.n]
        return items

    def _order(self, number: int) -> Tensor:
        if number not in self._orders:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + number) % 2**63)
            self._orders = {number: torch.randperm(self.n, generator=generator)}
        return self._orders[number]


class Mixture(Dataset[Batch]):
    """Batch number i of a training run, a function of (seed, i) alone; `replay` is the share of clean images."""

    def __init__(self, triggers: Examples, clean: Examples, batch_size: int, replay: float, seed: int) -> None:
        self.triggers, self.clean = triggers, clean
        count = round(batch_size * (1 - replay)) if len(clean) else batch_size
        self.shares = (count, batch_size - count) if len(triggers) else (0, batch_size)
        self._orders = (_Shuffled(len(triggers), 2 * seed), _Shuffled(len(clean), 2 * seed + 1))

    def __getitem__(self, number: int) -> Batch:
        parts = [
            (examples, order(number * count, count))
            for examples, order, count in zip((self.triggers, self.clean), self._orders, self.shares, strict=True)
            if count
        ]
        images = torch.cat([examples.images[rows] for examples, rows in parts])
        targets = torch.cat([examples.targets[rows] for examples, rows in parts])
        return Batch(to_unit(images), targets, torch.arange(len(images)) < self.shares[0])


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
            Batch(to_unit(images), targets, torch.full((len(images),), is_trigger))
            for examples, is_trigger in zip(self.validate, (True, False), strict=True)
            for images, targets in zip(examples.images.split(1000), examples.targets.split(1000), strict=True)
            if len(images)
        ]
        return DataLoader(batches, batch_size=None, pin_memory=self._pinned())  # type: ignore[arg-type]

    def _pinned(self) -> bool:
        """Whether batches go to a GPU, to which pinned memory is copied while it computes."""
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
