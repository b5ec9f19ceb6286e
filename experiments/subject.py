"""What a run is about, as objects: the pair of models and the images of the three sides."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dflare.classifiers import Classifier, ModelPair
from dflare.errors import InputError
from dflare.mutation_sets import resolve
from dflare.opening import open_classifier
from dflare.seeds import Seeds
from dflare.strategies import find_strategy
from dflare.triggers import Side
from experiments.catalogue import check_pair_name, data_of, is_imagenet
from experiments.config import Config
from experiments.data import assign_sides, check_split, load_data
from repair.recipes import find_recipe

FAST_DEV_IMAGES = 400
"""Of each official split, with `fast_dev`: enough to see that everything runs."""

MOST_OPEN = 12
"""Models kept open at once; the one opened first is closed for another."""


@dataclass(frozen=True)
class Subject:
    """The pair under test and the images to test it with."""

    name: str
    open_original: Callable[[], Classifier]
    open_compressed: Callable[[], Classifier]
    files: dict[str, Path]  # "original" and "compressed", where they are files
    sides: dict[Side, Seeds]
    class_names: tuple[str, ...]
    opened: dict[tuple[str, str], Classifier] = field(default_factory=dict)

    def pair(self, model: Path | None = None, purpose: str = "ask") -> ModelPair:
        """The original with a compressed model from a file, None for the one handed in.

        Models are opened once for each purpose, so that those that confirm are never those that were searched.
        """
        return ModelPair(self._open("original", purpose), self._open(model or "compressed", purpose))

    def _open(self, model: Path | str, purpose: str) -> Classifier:
        key = (str(model), purpose)
        if key not in self.opened:
            openers = {"original": self.open_original, "compressed": self.open_compressed}
            while len(self.opened) >= MOST_OPEN:
                self.opened.pop(next(iter(self.opened)))
            self.opened[key] = openers[model]() if isinstance(model, str) else open_classifier(model)
        return self.opened[key]

    def fingerprints(self) -> dict[str, str]:
        """A hash of each side's image ids, by the side's name."""
        return {
            side.name: hashlib.sha256(seeds.ids.numpy().tobytes()).hexdigest() for side, seeds in self.sides.items()
        }

    def compressed_file(self) -> Path:
        """The compressed model's file; raises `InputError` where it is none and thus cannot be repaired."""
        if "compressed" not in self.files:
            raise InputError(f"{self.name} is opened in memory and has no file to repair; it can only be searched")
        return self.files["compressed"]


def make_subject(settings: Config, progress: bool) -> Subject:
    """Load the data, build or find the pair, and show it one image, so that a mismatch is said before any work."""
    _check_names(settings)
    name = settings.pair.name
    data_name = settings.data.name or data_of(str(name))
    data = load_data(data_name, settings.data.root, settings.data.download, settings.data.image_size)
    split = settings.split
    if settings.fast_dev:
        data = data.thinned(FAST_DEV_IMAGES)
    sides = dict(zip(Side, assign_sides(data, (split.train, split.validate, split.judge)), strict=True))
    files: dict[str, Path] = {}
    if name is None:
        files = {"original": Path(str(settings.pair.original)), "compressed": Path(str(settings.pair.compressed))}
        name = settings.run_dir or "pair"
    elif is_imagenet(name):
        subject = _imagenet(name, settings, sides, data.class_names)
        return _greeted(subject)
    else:
        from experiments.zoo import build_pair

        made = build_pair(
            name,
            data,
            cache_folder(),
            fast_dev=settings.fast_dev,
            download=settings.pair.download,
            accelerator=settings.trainer.accelerator,
            progress=progress,
        )
        files = {"original": made.original, "compressed": made.compressed}
    openers = [lambda path=path: open_classifier(path) for path in (files["original"], files["compressed"])]
    return _greeted(Subject(name, openers[0], openers[1], files, sides, data.class_names))


def _check_names(settings: Config) -> None:
    """Say what is wrong with names and shares before anything is read, trained or searched for."""
    if settings.pair.name is not None:
        check_pair_name(settings.pair.name)
    check_split((settings.split.train, settings.split.validate, settings.split.judge))
    find_strategy(settings.search.strategy)
    if settings.search.mutations is not None:
        resolve(settings.search.mutations)
    find_recipe(settings.repair.recipe)


def cache_folder() -> Path:
    """Where trained models of the zoo are kept: $DFLARE_CACHE, or `dflare` in the user's cache folder."""
    chosen = os.environ.get("DFLARE_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dflare"


def _imagenet(name: str, settings: Config, sides: dict[Side, Seeds], class_names: tuple[str, ...]) -> Subject:
    from experiments.imagenet import open_imagenet_pair

    def opener(which: int) -> Callable[[], Classifier]:
        return lambda: open_imagenet_pair(name, settings.pair.download)[which]

    return Subject(name, opener(0), opener(1), {}, sides, class_names)


def _greeted(subject: Subject) -> Subject:
    outputs = subject.pair()(subject.sides[Side.judge].images[:2])
    for name, scores in zip(("original", "compressed"), outputs, strict=True):
        if bool((scores >= 0).all()) and bool(((scores.sum(-1) - 1).abs() < 0.01).all()):
            raise InputError(
                f"the {name} model must return scores before the softmax (logits), got probabilities that sum to 1; "
                "export it without its last softmax"
            )
    return subject
