"""Pairs of an original and a compressed form, made on first use and kept; importing this imports no model code."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dflare.errors import InputError
from experiments.cache import cached
from experiments.catalogue import ENDINGS, NETWORKS, Network, Recipe, check_pair_name, data_of, is_imagenet, pair_names
from experiments.files import write_atomic

if TYPE_CHECKING:
    from torch import nn

    from experiments.compress import Training
    from experiments.data import Data
    from experiments.networks import Architecture

__all__ = ["PairFiles", "build_pair", "check_pair_name", "data_of", "is_imagenet", "pair_names"]

_SEED = 0  # of all training in the zoo: a pair is the same whatever the seed of the run that uses it
_VERSION = 1  # raise it when code changes what is trained


@dataclass(frozen=True)
class PairFiles:
    """Where a pair lies; `measured.json` stands beside the compressed file."""

    name: str
    original: Path
    compressed: Path
    data: str


def build_pair(
    name: str,
    data: Data,
    cache: Path,
    *,
    fast_dev: bool = False,
    download: bool = False,
    accelerator: str = "cpu",
    progress: bool = False,
) -> PairFiles:
    """The pair's files, trained and written to `cache` unless they are there already.

    The entry's name holds a hash of all that decides what is in it. An entry appears whole (rename of a folder) or not
    at all, so builds may be interrupted or run side by side. `fast_dev` trains for 2 steps. `download` is for
    the ImageNet pairs and unused here. Raises `InputError` for an unknown pair and for other data than the pair's.
    """
    if is_imagenet(name):
        raise InputError(f"{name} is a pretrained pair without files; it cannot be built, only opened")
    check_pair_name(name)
    key, form = name.rsplit("-", 1)
    network = NETWORKS[key]
    if data.name != network.data or data.train_labels is None:
        raise InputError(f"the pair {name} is made from {network.data} (data.name), got {data.name}")
    work = _Work(key, network, data, cache, fast_dev, accelerator, progress)
    original = work.original()
    return PairFiles(name, original, work.compressed(form, original), data.name)


@dataclass(frozen=True)
class _Work:
    """What is being built, and the steps of doing so."""

    key: str
    network: Network
    data: Data
    cache: Path
    fast_dev: bool
    accelerator: str
    progress: bool

    def original(self) -> Path:
        """The trained original, made once for all forms."""
        recipe, build = self._recipe(self.network.train), self._architecture().original

        def make(folder: Path) -> None:
            from experiments.compress import make_original

            start = time.monotonic()
            assert self.data.train_labels is not None
            model = make_original(build, self.data.train_labels, recipe, self._training())
            facts = self._save(model, folder / "original.pt2")
            self._measure(folder, {"original": folder / "original.pt2"}, facts, start)

        return cached(self.cache, f"{self.key}-original", self._fingerprint(recipe), make) / "original.pt2"

    def compressed(self, form: str, original: Path) -> Path:
        """The original's compressed form."""
        recipes = {"distilled": self._recipe(self.network.distil), "pruned": self._recipe(self.network.prune)}
        name = form + ENDINGS[form]

        def make(folder: Path) -> None:
            start = time.monotonic()
            facts = self._compress(form, original, recipes.get(form), folder / name)
            self._measure(folder, {"original": original, form: folder / name}, facts, start)

        fingerprint = f"{original.parent.name} {recipes.get(form)}"
        return cached(self.cache, f"{self.key}-{form}", fingerprint, make) / name

    def _compress(self, form: str, original: Path, recipe: Recipe | None, path: Path) -> dict[str, float]:
        from experiments import compress

        model = compress.load_weights(self._architecture().original(), original)
        if recipe is None:
            compress.make_int8(model, self._training(), path)
            return {}
        if form == "distilled":
            return self._save(
                compress.make_distilled(model, self._architecture().student, recipe, self._training()), path
            )
        return self._save(compress.make_pruned(model, recipe, self._training()), path)

    def _save(self, model: nn.Module, path: Path) -> dict[str, float]:
        from experiments.compress import count_parameters, save_exported, sparsity

        save_exported(model, self._architecture().shape, path)
        return {"parameters": count_parameters(model), "sparsity": sparsity(model)}

    def _measure(self, folder: Path, files: dict[str, Path], facts: dict[str, float], start: float) -> None:
        """Write `measured.json`: the accuracy of the files as they will be opened, on the test split."""
        from dflare.classifiers import Outputs, ask
        from dflare.models.opening import open_classifier
        from experiments.training import accuracy

        images, labels = self.data.test_images, self.data.test_labels
        if images is None or labels is None:
            raise InputError(f"{self.data.name} must have a labelled test split to measure {self.key} on")
        answers = {name: ask(open_classifier(path), images, name) for name, path in files.items()}
        measured: dict[str, Any] = {
            name: {"accuracy": accuracy(answers[name], labels), "bytes": path.stat().st_size}
            for name, path in files.items()
        }
        newest = list(files)[-1]
        outputs = Outputs(answers["original"], answers[newest])
        counts = {"deviates_on_test": int(outputs.deviates.sum()), "tied_on_test": int(outputs.tied.sum())}
        measured[newest] |= facts | counts | {"seconds": round(time.monotonic() - start, 1)}
        write_atomic(folder / "measured.json", json.dumps(measured | {"test_images": len(images)}, indent=1) + "\n")

    def _recipe(self, recipe: Recipe) -> Recipe:
        return replace(recipe, steps=2) if self.fast_dev else recipe

    def _architecture(self) -> Architecture:
        from experiments.networks import ARCHITECTURES

        return ARCHITECTURES[self.network.architecture]

    def _training(self) -> Training:
        from experiments.compress import Training

        return Training(self.data.train_images, _SEED, self.accelerator, self.progress)

    def _fingerprint(self, recipe: Recipe) -> str:
        """All that decides what the original is."""
        import torch

        from dflare.seeds import pixel_hash

        assert self.data.train_labels is not None
        images = hashlib.sha256(pixel_hash(self.data.train_images).numpy().tobytes())
        images.update(self.data.train_labels.numpy().tobytes())
        torch_version = ".".join(torch.__version__.split(".")[:2])
        return f"{_VERSION} {self.network} {recipe} {_SEED} {self.data.name} {images.hexdigest()} {torch_version}"
