"""report.json and report.md of `dflare properties`, from the files of its run folder. No model is opened."""

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dflare.errors import InputError
from experiments.files import read_json, write_atomic
from experiments.properties_config import PropertiesConfig, check_properties
from experiments.properties_text import COLUMNS, markdown
from experiments.settings import as_dict, read_yaml, settings_of

SCHEMA_VERSION = 1


def is_properties(run_dir: Path) -> bool:
    """Whether a folder is one of `dflare properties`."""
    config = run_dir / "config.yaml"
    return config.is_file() and "properties" in read_yaml(config)


def write_report(run_dir: Path) -> dict[str, Any]:
    """Write report.json and report.md from what the run left in `run_dir`; the content of report.json.

    Raises `InputError` for a missing or damaged file.
    """
    config = run_dir / "config.yaml"
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    if "${" in text:  # a received folder reads no environment
        raise InputError(f"expected plain values in {config}, got an interpolation; was it edited by hand?")
    content: Any = OmegaConf.to_container(read_yaml(config), resolve=False)
    settings = settings_of(PropertiesConfig, content, str(config))
    check_properties(settings)
    try:
        report = _assemble(run_dir, settings)
        page = markdown(report, text)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(f"the figures in {run_dir / 'round-00'} are not as a run writes them; remove it") from error
    write_atomic(run_dir / "report.md", page)
    write_atomic(run_dir / "report.json", json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return report


def _assemble(run_dir: Path, settings: PropertiesConfig) -> dict[str, Any]:
    work = run_dir / "round-00"
    before, after, plain = (_read(work / f"judged-{name}.json") for name in COLUMNS)
    samples = _read(work / "samples.json")
    if before is None or (after is None and samples is not None and samples["train"][0]):
        raise InputError(f"the run in {run_dir} is not finished; run the same dflare properties command to continue")
    reasons = _reasons((after or before)["statements"], settings.properties.epsilon)
    environment = read_json(run_dir / "environment.json")
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "properties",
        "name": run_dir.resolve().name,
        "created": environment.get("created"),
        "gate": {"passed": not reasons, "reasons": reasons},
        "method": settings.properties.method,
        "repair": _read(work / f"{settings.properties.method}.json"),
        "samples": samples,
        "before": before,
        "after": after,
        "plain": plain,
        "verification": {
            name: found for name in COLUMNS if (found := _read(work / f"verified-{name}.json")) is not None
        },
        "config": as_dict(settings),
        "environment": environment,
    }


def _reasons(statements: list[dict[str, Any]], epsilon: float) -> list[str]:
    """Why the bound asked for does not hold, a sentence for each property; none where it holds."""
    return [
        f"{one['property']}: the bound {one['bound']:.3g} is more than the {epsilon:g} asked for"
        for one in statements
        if one["bound"] > epsilon * (1 + 1e-9)  # of a bound that equals epsilon but for rounding
    ]


def _read(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.exists() else None
