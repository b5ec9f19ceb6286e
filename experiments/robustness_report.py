"""report.json and report.md of a robustness repair, from the files of its run folder. No model is opened."""

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dflare.errors import InputError
from experiments.files import read_json, write_atomic
from experiments.properties_config import NONE
from experiments.robustness_config import RobustnessConfig, check_robustness
from experiments.robustness_text import COLUMNS, markdown
from experiments.settings import as_dict, read_yaml, settings_of

SCHEMA_VERSION = 1


def is_robustness(run_dir: Path) -> bool:
    """Whether a folder is one of a robustness repair."""
    config = run_dir / "config.yaml"
    return config.is_file() and "robustness" in read_yaml(config)


def write_report(run_dir: Path) -> dict[str, Any]:
    """Write report.json and report.md from what the run left in `run_dir`; the content of report.json.

    Raises `InputError` for a missing or damaged file.
    """
    config = run_dir / "config.yaml"
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    if "${" in text:  # a received folder reads no environment
        raise InputError(f"expected plain values in {config}, got an interpolation; was it edited by hand?")
    content: Any = OmegaConf.to_container(read_yaml(config), resolve=False)
    settings = settings_of(RobustnessConfig, content, str(config))
    check_robustness(settings)
    report = _assemble(run_dir, settings)
    write_atomic(run_dir / "report.md", markdown(report, text))
    write_atomic(run_dir / "report.json", json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return report


def _assemble(run_dir: Path, settings: RobustnessConfig) -> dict[str, Any]:
    work, asked = run_dir / "round-00", settings.robustness
    judged = {name: _read(work / f"judged-{name}.json") for name in COLUMNS}
    before, after = judged["before"], judged["after"]
    misbehaves = before is not None and before["misbehaving"]
    if before is None or (after is None and misbehaves and asked.method != NONE):
        raise InputError(f"the run in {run_dir} is not finished; run the same dflare properties command to continue")
    bound = (after or before)["statement"]["bound"]
    reasons = []
    if bound > asked.epsilon * (1 + 1e-9):  # of a bound that equals epsilon but for rounding
        reasons.append(f"the bound {bound:.3g} is more than the {asked.epsilon:g} asked for")
    environment = read_json(run_dir / "environment.json")
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "robustness",
        "name": run_dir.resolve().name,
        "created": environment.get("created"),
        "gate": {"passed": not reasons, "reasons": reasons},
        "method": asked.method,
        "repair": _read(work / "repair.json") if after else None,
        "before": before,
        "after": after,
        "verification": {
            name: found for name in COLUMNS if (found := _read(work / f"verified-{name}.json")) is not None
        },
        "config": as_dict(settings),
        "environment": environment,
    }


def _read(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.exists() else None
