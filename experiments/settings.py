"""From YAML files and `key=value` arguments to a checked, complete configuration."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from dflare.errors import InputError
from experiments.config import Config, Models, ModelSettings
from experiments.opening import WHICH, interface_of, is_code

SHIPPED = "configs"

Settings = TypeVar("Settings")
"""A dataclass of settings, such as `Config`."""


def load_config(arguments: Sequence[str]) -> Config:
    """The settings of YAML files, later ones over earlier ones, with `key=value` arguments over all of them.

    A file is a path or the name of a shipped configuration. Raises `InputError` for a missing file, an unknown key
    (with the nearest right one), a wrong type or a value out of range.
    """
    settings = read_settings(Config, arguments)
    check_ranges(settings)
    _check_code(settings, arguments)
    return complete(settings)


def read_settings(kind: type[Settings], arguments: Sequence[str]) -> Settings:
    """The settings of a dataclass, as `load_config` puts them together; their ranges are not checked yet."""
    config = OmegaConf.structured(kind)
    for argument in (a for a in arguments if "=" not in a):
        path = find_file(argument)
        config = _merge(config, read_yaml(path), str(path), kind)
    for argument in (a for a in arguments if "=" in a):
        config = _merge(config, _parse(argument), f"the argument {argument}", kind)
    return _resolved(config)


def settings_of(kind: type[Settings], content: Mapping[str, Any], source: str) -> Settings:
    """The settings in nested dictionaries; raises `InputError`, which names `source`, as `load_config` does."""
    return _resolved(_merge(OmegaConf.structured(kind), OmegaConf.create(dict(content)), source, kind))


def complete(settings: Config) -> Config:
    """Fill in what follows from other settings: pair, run folder, the small numbers of `fast_dev`."""
    named = settings.pair.original is not None or settings.pair.compressed is not None
    if named and (settings.pair.original is None or settings.pair.compressed is None):
        missing = "pair.original" if settings.pair.original is None else "pair.compressed"
        raise InputError(f"a pair of files needs pair.original and pair.compressed, {missing} is missing")
    if named and settings.pair.name is not None:
        raise InputError("expected either pair.name or pair.original and pair.compressed, got both")
    if named and settings.data.name is None and settings.data.root is None:
        raise InputError("a pair of one's own models needs data.root, a folder or file of images, or data.name")
    _check_models(settings.models, named)
    if not named and settings.pair.name is None:
        settings.pair.name = "digits-cnn-pruned"
    if settings.run_dir is None:
        name = settings.pair.name or f"{Path(str(settings.pair.compressed)).parent.name}-{_stem(settings)}"
        settings.run_dir = f"runs/{name}"
    settings.search.other_strategy = other_strategy(settings.search.strategy, settings.search.other_strategy)
    if settings.fast_dev:
        search, repair = settings.search, settings.repair
        search.seeds, search.validate_seeds, search.judge_seeds = (
            min(8, n) for n in (search.seeds, search.validate_seeds, search.judge_seeds)
        )
        search.max_queries = min(20, search.max_queries)
        repair.steps, repair.validate_every = min(2, repair.steps), min(2, repair.validate_every)
        settings.probe.images = min(50, settings.probe.images)
        repair.precision.images = min(50, repair.precision.images)
    return settings


def other_strategy(strategy: str, other: str | None) -> str | None:
    """The strategy that finds held-out triggers beside the repair's own; None for none.

    `auto` is `boundary`, which walks between real images, and `dflare` where the repair's is of that kind already.
    Raises `InputError` for the same strategy twice.
    """
    if other == "auto":
        return "dflare" if strategy.startswith("boundary") else "boundary"
    if other == strategy:
        raise InputError(
            f"search.other_strategy must be another strategy than search.strategy={strategy}, auto or null, got {other}"
        )
    return other


def _check_models(models: Models, named: bool) -> None:
    """Raise `InputError` for an interface that makes no sense, or for one of a pair of the zoo."""
    for which in ("both", *WHICH):
        own = getattr(models, which)
        interface_of(own, f"models.{which}.")
        if own != ModelSettings() and not named:
            raise InputError(
                f"models.{which} needs pair.original and pair.compressed; the models of the zoo take images in [0, 1]"
            )


def check_ranges(settings: Config) -> None:
    """Raise `InputError` for the first number that makes no sense."""
    search, repair = settings.search, settings.repair
    rules: list[tuple[str, float | None, float, float]] = [
        ("search.seeds", search.seeds, 1, 2**31),
        ("search.validate_seeds", search.validate_seeds, 1, 2**31),
        ("search.judge_seeds", search.judge_seeds, 1, 2**31),
        ("search.max_queries", search.max_queries, 1, 2**31),
        ("search.max_seconds", search.max_seconds, 0, float("inf")),
        ("search.batch_size", search.batch_size, 1, 2**20),
        ("search.references", search.references, 1, 2**20),
        ("search.shrink_queries", search.shrink_queries, 1, 2**31),
        ("localise.triggers", settings.localise.triggers, 1, 2**31),
        ("verify.repeats", settings.verify.repeats, 1, 1000),
        ("preflight.images", settings.preflight.images, 1, 1_000_000),
        ("preflight.min_agreement", settings.preflight.min_agreement, 0, 1),
        ("repair.steps", repair.steps, 1, 2**31),
        ("repair.batch_size", repair.batch_size, 2, 2**20),
        ("repair.learning_rate", repair.learning_rate, 0, 10),
        ("repair.replay", repair.replay, 0, 1),
        ("repair.validate_every", repair.validate_every, 1, 2**31),
        ("repair.patience", repair.patience, 1, 2**31),
        ("repair.precision.weights", repair.precision.weights, 0, 1),
        ("repair.precision.max_bytes", repair.precision.max_bytes, 1, float("inf")),
        ("repair.precision.max_latency", repair.precision.max_latency, 1, float("inf")),
        ("repair.precision.images", repair.precision.images, 4, 2**31),
        ("probe.images", settings.probe.images, 1, 2**31),
        ("loop.rounds", settings.loop.rounds, 1, 10_000),
        ("estimate.queries", settings.estimate.queries, 40, 2**31),
        ("estimate.confidence", settings.estimate.confidence, 0.5, 0.9999),
        ("gate.max_probe_rate", settings.gate.max_probe_rate, 0, 1),
        ("gate.min_queries_ratio", settings.gate.min_queries_ratio, 0, float("inf")),
        ("gate.max_drawdown", settings.gate.max_drawdown, 0, 1),
        ("gate.max_accuracy_drop", settings.gate.max_accuracy_drop, -1, 1),
        ("gate.max_bytes", settings.gate.max_bytes, 0, 2**63),
        ("gate.max_latency_ms", settings.gate.max_latency_ms, 0, float("inf")),
        ("seed", settings.seed, 0, 2**32),
        ("threads", settings.threads, 1, 4096),
        ("data.image_size", settings.data.image_size, 4, 4096),
        ("trainer.devices", settings.trainer.devices, 1, 1024),
        ("trainer.num_nodes", settings.trainer.num_nodes, 1, 1024),
    ]
    for key, value, low, high in rules:
        if value is not None and not low <= value <= high:
            ends = [str(end) if isinstance(end, int) else f"{end:g}" for end in (low, high)]
            raise InputError(f"{key} must be in [{ends[0]}, {ends[1]}], got {value:g}")
    if settings.trainer.strategy != "auto" and settings.trainer.devices * settings.trainer.num_nodes > 1:
        raise InputError(
            f"trainer.strategy={settings.trainer.strategy} needs trainer.devices=1 and trainer.num_nodes=1: "
            "a repair runs on the first worker alone, which would wait for the others"
        )
    twice = [name for name in settings.verify.runtimes if settings.verify.runtimes.count(name) > 1]
    if twice:
        raise InputError(f"verify.runtimes names {twice[0]} twice, name it once")
    for key, name, choices in (
        ("search.choose", search.choose, ("random", "balanced")),
        ("localise.method", settings.localise.method, (None, "intervention", "gradient", "activation", "pareto")),
        ("repair.precision.activations", repair.precision.activations, (None, "all", "chosen")),
        ("repair.precision.choose", repair.precision.choose, ("greedy", "size", "chance")),
        ("trainer.accelerator", settings.trainer.accelerator, ("auto", "cpu", "gpu")),
        ("trainer.precision", settings.trainer.precision, ("32-true", "16-mixed", "bf16-mixed")),
    ):
        if name not in choices:
            known = ", ".join("null" if choice is None else choice for choice in choices)
            raise InputError(f"{key} must be one of {known}, got {name!r}")


def to_yaml(settings: Any) -> str:
    """The complete settings as YAML that can be given back."""
    return OmegaConf.to_yaml(OmegaConf.structured(settings))


def as_dict(settings: Any) -> dict[str, Any]:
    """The settings as plain nested dictionaries."""
    return OmegaConf.to_container(OmegaConf.structured(settings))  # type: ignore[return-value]


def find_file(name: str) -> Path:
    """A configuration file by path, or a shipped one by name with or without `.yaml`."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_configs()
    found = shipped.get(Path(name).name.removesuffix(".yaml"))
    if found is not None and path.parent.name in ("", SHIPPED):
        return found
    close = difflib.get_close_matches(Path(name).stem, shipped, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise InputError(f"expected a configuration file, found none at {name}; {hint}shipped are {', '.join(shipped)}")


def shipped_configs() -> dict[str, Path]:
    """The configurations that come with the package, by name."""
    folder = Path(str(files(SHIPPED)))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_yaml(path: Path) -> DictConfig:
    """The keys and values of a YAML file, not checked yet; raises `InputError` for anything else."""
    try:
        loaded = OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise InputError(f"expected YAML in {path}: {first_line(error)}") from error
    if not isinstance(loaded, DictConfig):
        raise InputError(f"expected keys and values in {path}, got a list")
    return loaded


def _check_code(settings: Config, arguments: Sequence[str]) -> None:
    """Raise `InputError` where anything but an argument names code to run: files may come from anyone.

    What an argument says must be the name itself, not a reference to a value in some file.
    """
    for which in WHICH:
        where = getattr(settings.pair, which)
        if where is not None and is_code(where) and f"pair.{which}={where}" not in arguments:
            raise InputError(
                f"pair.{which}={where} is code, which is never loaded because a file says so; "
                f"give pair.{which}={where} itself as an argument, and --allow-code"
            )


def _parse(argument: str) -> DictConfig:
    try:
        return OmegaConf.from_dotlist([argument])
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise InputError(f"expected key=value, got {argument}: {first_line(error)}") from error


def _merge(config: Any, other: DictConfig, source: str, kind: Any) -> Any:
    right = list(_keys(kind))
    for key in _flat(OmegaConf.to_container(other, resolve=False)):  # type: ignore[arg-type]
        if key not in right and not any(name.startswith(f"{key}.") for name in right) and not _is_free(key, kind):
            close = difflib.get_close_matches(key, right, 1, 0.5)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InputError(f"unknown key {key} in {source}{hint}")
    try:
        return OmegaConf.merge(config, other)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "a key"
        if "is not a ListConfig" in str(error):
            raise InputError(f"wrong value for {key} in {source}: expected a list, such as [a,b]") from error
        if "convert 'ListConfig' to string" in str(error):
            raise InputError(f"wrong value for {key} in {source}: expected text, got a list") from error
        raise InputError(f"wrong value for {key} in {source}: {first_line(error)}") from error


def _resolved(config: Any) -> Any:
    try:
        return OmegaConf.to_object(config)
    except OmegaConfBaseException as error:  # an interpolation ${…} that leads nowhere
        raise InputError(f"wrong value for {getattr(error, 'full_key', 'a key')}: {first_line(error)}") from error


def _is_free(key: str, kind: Any) -> bool:
    """Whether a key lies within a setting that is itself keys and values."""
    head, _, rest = key.partition(".")
    entry = next((entry for entry in fields(kind) if entry.name == head), None)
    if entry is None or not rest:
        return False
    return _is_free(rest, entry.type) if is_dataclass(entry.type) else get_origin(entry.type) is dict


def _keys(kind: Any, prefix: str = "") -> Iterator[str]:
    for entry in fields(kind):
        if is_dataclass(entry.type):
            yield from _keys(entry.type, f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}"


def _flat(settings: dict[Any, Any], prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def first_line(error: Exception) -> str:
    if isinstance(error, MarkedYAMLError) and error.problem and error.problem_mark:
        return f"{error.problem} (line {error.problem_mark.line + 1})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _stem(settings: Config) -> str:
    return Path(str(settings.pair.compressed)).name.replace(".", "-")
