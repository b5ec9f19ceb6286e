"""Which weights of a training are kept, and the state from which it continues."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from dflare.errors import InputError
from dflare.writing import put_in_place

LAST, BEST = "last.ckpt", "best.ckpt"
SCORE, ERROR = "validate/score", "validate/error"


class KeepBest(Callback):
    """Keep the latest weights whose score is within one standard error of the best score seen.

    The one-standard-error rule of L. Breiman et al., "Classification and Regression Trees" (1984), section 3.4.3. A
    validate side of some hundred images cannot tell scores apart that are nearer than that, and among weights that it
    cannot tell apart those of the lowest learning rate are taken: the first of a dozen equal scores is mostly chance.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.best, self.kept = -float("inf"), -float("inf")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        score, error = (float(trainer.callback_metrics[name]) for name in (SCORE, ERROR))
        self.best = max(self.best, score)
        if score >= self.best - error:
            self.kept = score
            _save(trainer, self.folder / BEST)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "kept": self.kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.kept = state_dict["best"], state_dict["kept"]

    def read(self) -> tuple[dict[str, Tensor], int, float]:
        """The weights that were kept, the steps behind them, and their score."""
        saved = read_checkpoint(self.folder / BEST)
        return saved["state_dict"], int(saved["global_step"]), float(saved["callbacks"][self.state_key]["kept"])


class SaveLast(Callback):
    """Keep the state at the start of the current epoch, the one moment from which Lightning continues exactly."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _save(trainer, self.folder / LAST)


def last_of(folder: Path) -> Path | None:
    """The checkpoint from which a training in a folder goes on, None for a new one; a broken one is refused."""
    path = folder / LAST
    if not path.is_file():
        return None
    read_checkpoint(path)
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a training kept in a file; raises `InputError` for one that is missing or broken."""
    try:
        saved: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, OSError, EOFError, ValueError, UnpicklingError) as error:
        raise InputError(
            f"expected a checkpoint of this training in {path}, found none that can be read; "
            f"remove the folder {path.parent} to begin the training anew"
        ) from error
    return saved


def _save(trainer: pl.Trainer, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    trainer.save_checkpoint(temporary)
    put_in_place(temporary, path)
