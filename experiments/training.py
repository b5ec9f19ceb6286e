"""Train a network on images and target probabilities: the repair's module and Lightning, quiet and repeatable."""

import sys
import warnings
from collections.abc import Iterator

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from experiments.catalogue import Recipe
from repair import lightning
from repair.data import Examples, Mixture
from repair.losses import imitation
from repair.module import Batch, Repair


class Batches:
    """The batches of a whole training run, one pass over this object; batch i is a function of (seed, i) alone."""

    def __init__(self, examples: Examples, recipe: Recipe, seed: int) -> None:
        nothing = Examples(examples.images[:0], examples.targets[:0])
        self.mixture = Mixture(nothing, examples, recipe.batch_size, replay=1.0, seed=seed)
        self.recipe, self.seed = recipe, seed

    def __len__(self) -> int:
        return self.recipe.steps

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self.recipe.steps):
            batch = self.mixture[number]
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + number) % 2**63)
            yield batch._replace(images=vary(batch.images, self.recipe.shift, self.recipe.flip, generator))


def vary(images: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Images (n, c, h, w) moved by up to `shift` pixels each way, black coming in, and each second one mirrored."""
    n, _, height, width = images.shape
    if shift:
        padded = nn.functional.pad(images, (shift,) * 4)
        down, right = torch.randint(0, 2 * shift + 1, (2, n), generator=generator)
        rows, columns = down[:, None] + torch.arange(height), right[:, None] + torch.arange(width)
        images = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if flip:
        mirrored = torch.rand(n, generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return images


def train(
    model: nn.Module, examples: Examples, recipe: Recipe, *, seed: int, accelerator: str = "cpu", progress: bool = False
) -> None:
    """Fit the model in place to the examples' target probabilities; it is left in evaluation mode on the CPU.

    The result depends on the model, examples, recipe and seed alone (on one machine; kernels round differently
    elsewhere). Global random state stays as it was. The progress bar shows only on a terminal.
    """
    module = Repair(model.train(), imitation, recipe.learning_rate, decay_steps=recipe.steps)
    with torch.random.fork_rng(devices=[]), lightning.quiet():
        # There is nothing to validate on: the recipes are fixed, and the last weights are taken.
        warnings.filterwarnings("ignore", "You defined a `validation_step` but have no `val_dataloader`")
        torch.default_generator.manual_seed(seed)
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=1,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress and sys.stdout.isatty(),
        )
        lightning.run(trainer, module, train_dataloaders=Batches(examples, recipe, seed))
    model.to("cpu").eval()


def accuracy(answers: Tensor, labels: Tensor) -> float:
    """Share of scores (n, classes) whose first top class is the label (n,)."""
    return (answers.argmax(-1) == labels).double().mean().item()
