"""What a run is about, as objects: the pair of models and the images of the three sides."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dflare.classifiers import Classifier, ModelPair
from dflare.errors import InputError
from dflare.limits import Limits
from dflare.mutation_sets import resolve
from dflare.opening import open_classifier
from dflare.preprocess import is_identity
from dflare.seeds import Seeds
from dflare.strategies import find_strategy
from dflare.triggers import Side
from experiments.catalogue import check_pair_name, data_of, files_of, is_imagenet
from experiments.config import Config, Pair
from experiments.data import assign_sides, check_split, load_data
from experiments.opening import check_runtimes, open_shown
from repair.opening import check_repairable
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
    open_file: Callable[[Path], Classifier] = open_classifier  # any model file, as those of the pair are
    preprocessed: bool = False  # whether the files are shown other numbers than [0, 1]
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
            self.opened[key] = openers[model]() if isinstance(model, str) else self.open_file(model)
        return self.opened[key]

    def fingerprints(self) -> dict[str, str]:
        """A hash of each side's image ids, by the side's name."""
        return {
            side.name: hashlib.sha256(seeds.ids.numpy().tobytes()).hexdigest() for side, seeds in self.sides.items()
        }

    def compressed_file(self) -> Path:
        """The compressed model's file; raises `InputError` where there is none, or none that can be repaired."""
        if "compressed" not in self.files:
            raise InputError(f"{self.name} is opened in memory and has no file to repair; it can only be searched")
        check_repairable(self.files["compressed"])
        if self.preprocessed:
            raise InputError(
                f"a repair shows the model images in [0, 1], but {self.files['compressed']} is shown other numbers; "
                "put pair.input_scale, pair.input_mean and pair.input_std into the model, or search only"
            )
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
    open_file = _opener(settings.pair)
    openers = [lambda path=path: open_file(path) for path in (files["original"], files["compressed"])]
    preprocessed = open_file is not open_classifier
    return _greeted(Subject(name, openers[0], openers[1], files, sides, data.class_names, open_file, preprocessed))


def _opener(pair: Pair) -> Callable[[Path], Classifier]:
    """How model files of the pair are opened: with its preprocessing, where it has any."""
    numbers = pair.input_scale, pair.input_mean, pair.input_std
    if is_identity(*numbers):
        return open_classifier
    return lambda path: open_shown(path, pair)


def _check_names(settings: Config) -> None:
    """Say what is wrong with names and shares before anything is read, trained or searched for."""
    pair = settings.pair
    if pair.name is not None:
        check_pair_name(pair.name)
    files = (str(pair.original), str(pair.compressed)) if pair.name is None else files_of(pair.name)
    check_runtimes(settings.verify.runtimes, [Path(name) for name in files])
    check_split((settings.split.train, settings.split.validate, settings.split.judge))
    find_strategy(settings.search.strategy)
    search = settings.search
    Limits(search.max_l_inf, search.max_l_2, search.min_ssim)
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
