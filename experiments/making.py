"""From settings to the pair under test and its images."""

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from dflare.classifiers import Classifier
from dflare.limits import Limits
from dflare.models.formats import sniff
from dflare.models.origins import is_reference
from dflare.models.shown import Shown
from dflare.mutation_sets import resolve
from dflare.seeds import Seeds
from dflare.strategies import find_strategy
from dflare.triggers import Side
from experiments.catalogue import check_pair_name, data_of, formats_of, is_imagenet
from experiments.config import Config
from experiments.data import Data, assign_sides, check_split, load_data
from experiments.devices import Placer, device_of
from experiments.greeting import greeted
from experiments.opening import WHICH, Source, check_runtimes, source_of
from experiments.subject import Subject
from repair.outputs.recipes import recipe_parts

FAST_DEV_IMAGES = 400
"""Of each official split, with `fast_dev`: enough to see that everything runs."""


def make_subject(settings: Config, progress: bool, allow_code: bool = False, local_rank: int = 0) -> Subject:
    """Load the data, build or find the pair, and show it real images, so that a mismatch is said before any work.

    `local_rank` is the worker's number on its node, for those that share GPUs.
    """
    _check_names(settings)
    device = device_of(settings.trainer.accelerator, local_rank)
    subject = greeted(_subject(settings, progress, allow_code), settings)
    return subject if device.type == "cpu" else replace(subject, placer=Placer(device), opened={})


def _subject(settings: Config, progress: bool, allow_code: bool) -> Subject:
    name = settings.pair.name
    if name is None:
        sources = _own_sources(settings, allow_code)
        opened = {(which, "ask"): source.open_shown() for which, source in sources.items()}
        data = _load(settings, settings.data.name, _largest(opened.values()))
        subject = _of_sources(settings.run_dir or "pair", sources, _sides(settings, data), data)
        return replace(subject, opened=dict(opened))
    data = _load(settings, settings.data.name or data_of(name), None)
    if is_imagenet(name):
        return _imagenet(name, settings, _sides(settings, data), data.class_names)
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
    sources = {which: Source(str(path)) for which, path in zip(WHICH, (made.original, made.compressed), strict=True)}
    return _of_sources(name, sources, _sides(settings, data), data)


def _own_sources(settings: Config, allow_code: bool) -> dict[str, Source]:
    where = settings.pair.original, settings.pair.compressed
    return {
        which: source_of(str(text), which, settings.models, allow_code)
        for which, text in zip(WHICH, where, strict=True)
    }


def _largest(models: Iterable[Shown]) -> tuple[int, int] | None:
    """The greatest height and width that a model takes; None where both take any."""
    sizes = [tuple(model.interface.size) for model in models if model.interface.size is not None]
    return max(sizes, default=None)  # type: ignore[return-value]


def _of_sources(name: str, sources: dict[str, Source], sides: dict[Side, Seeds], data: Data) -> Subject:
    return Subject(name, sources["original"].open, sources["compressed"].open, sources, sides, data.class_names)


def _load(settings: Config, name: str | None, size: tuple[int, int] | None) -> Data:
    """The data set; one's own photos come in the size that the models take, where they take one."""
    options = settings.data
    data = load_data(name, options.root, options.download, options.image_size, fallback_size=size)
    return data.thinned(FAST_DEV_IMAGES) if settings.fast_dev else data


def _sides(settings: Config, data: Data) -> dict[Side, Seeds]:
    split = settings.split
    return dict(zip(Side, assign_sides(data, (split.train, split.validate, split.judge)), strict=True))


def _check_names(settings: Config) -> None:
    """Say what is wrong with names and shares before anything is read, trained or searched for."""
    pair = settings.pair
    if pair.name is not None:
        check_pair_name(pair.name)
    own = [Path(str(where)) for where in (pair.original, pair.compressed) if not is_reference(str(where))]
    formats = [sniff(path) for path in own] if pair.name is None else formats_of(pair.name)
    check_runtimes(settings.verify.runtimes, formats)
    check_split((settings.split.train, settings.split.validate, settings.split.judge))
    find_strategy(settings.search.strategy)
    if settings.search.other_strategy is not None:
        find_strategy(settings.search.other_strategy, "search.other_strategy")
    search = settings.search
    Limits(search.max_l_inf, search.max_l_2, search.min_ssim)
    if settings.search.mutations is not None:
        resolve(settings.search.mutations)
    recipe_parts(settings.repair.recipe)


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
