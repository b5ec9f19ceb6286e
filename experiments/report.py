"""From the files of a run folder to report.json, .md, .html, junit.xml and pictures. Opens no model, needs no torch."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from textwrap import wrap
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dflare.errors import InputError
from experiments.files import parse_json, read_json, read_lines, write_atomic
from experiments.gate import judge_gate
from experiments.html.page import page
from experiments.pictures import write_pictures
from experiments.report_clusters import clusters_of
from experiments.report_junit import add_job_summary, junit
from experiments.report_layers import layers_of
from experiments.report_markdown import ALL_ROLLED_BACK, markdown
from experiments.report_models import models_of, runtime_warnings
from experiments.report_precision import precision_of
from experiments.report_rows import comparison, short
from experiments.report_schema import conform
from experiments.report_verification import add_verification, doubts
from experiments.settings import first_line
from repair.proof.metrics import plain

SCHEMA_VERSION = 1

WIDTH = 100
"""Characters of a line of the summary."""


def write_report(run_dir: Path) -> dict[str, Any]:
    """Write report.json, .md and .html, junit.xml and pictures/ from what a run left; the content of report.json.

    Reads config.yaml and environment.json, and where they exist rounds.jsonl (a torn last line is ignored),
    headline.json, the triggers' shards and what else the stages wrote. Judges the gate anew from the gate of
    config.yaml. In a GitHub job its summary gets the verdict, too. Raises `InputError` for a missing or damaged file.
    """
    settings = _settings(run_dir / "config.yaml")
    report = plain(_assemble(run_dir, settings))
    pictures = write_pictures(run_dir)
    text = (run_dir / "config.yaml").read_text(encoding="utf-8")
    write_atomic(run_dir / "report.md", markdown(report, pictures, text))
    write_atomic(run_dir / "report.html", page(run_dir, report, text))
    write_atomic(run_dir / "junit.xml", junit(report))
    write_atomic(run_dir / "report.json", json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    add_job_summary(report)
    return report


def summary_text(report: Mapping[str, Any]) -> str:
    """The report on about twenty lines of a terminal: verdict, before, after and controls, where the files are."""
    gate, headline = report["gate"], report["headline"]
    lines = [f"{_line(report['name'])}: the release gate {'passed' if gate['passed'] else 'FAILED'}"]
    sentences = list(gate["reasons"])
    if headline is not None:
        sentences.append(headline["beats_placebo_words"] or "No placebo was run.")
        sentences += [ALL_ROLLED_BACK] if headline["rolled_back"] else []
    sentences += doubts(report["rounds"])
    sentences += [f"Warning: {text}." for text in report["warnings"]]
    for sentence in sentences:
        lines += wrap(_line(sentence), WIDTH, initial_indent="  ", subsequent_indent="    ")
    if headline is not None:
        lines.append("")
        rows = [["", "before", "after", "placebo", "no-op"]]
        rows += [[row.label, *(short(row.kind, cell) for cell in row.cells)] for row in comparison(headline)]
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        for label, *cells in rows:
            aligned = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
            lines.append(f"{label.ljust(widths[0])}  {'  '.join(aligned)}")
    folder = _line(report["config"].get("run_dir") or f"runs/{report['name']}")
    return "\n".join([*lines, "", f"report: {folder}/report.html and .md", f"data:   {folder}/report.json"])


def _assemble(run_dir: Path, settings: dict[str, Any]) -> dict[str, Any]:
    environment = read_json(run_dir / "environment.json")
    if not isinstance(environment, dict):
        raise InputError(f"{run_dir / 'environment.json'} must hold an object, got {type(environment).__name__}")
    headline = _headline(run_dir / "headline.json")
    gate = judge_gate(_mapping(settings.get("gate")), headline)
    return {
        "schema_version": SCHEMA_VERSION,
        "name": run_dir.resolve().name,
        "created": str(environment.get("created") or datetime.now(UTC).isoformat(timespec="seconds")),
        "gate": {"passed": gate.passed, "reasons": gate.reasons, "met": gate.met},
        "config": settings,
        "environment": environment,
        "models": models_of(environment, str(run_dir / "environment.json")),
        "warnings": runtime_warnings(environment),
        "pair": {**_mapping(settings.get("pair")), **_mapping(environment.get("pair"))},
        "rounds": _rounds(run_dir / "rounds.jsonl"),
        "headline": headline,
    }


def _settings(path: Path) -> dict[str, Any]:
    """config.yaml as plain nested dictionaries. Interpolations stay text: a received folder reads no environment."""
    try:
        settings = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise InputError(f"expected the settings of a run in {path}: {first_line(error)}") from error
    if not isinstance(settings, dict):
        raise InputError(f"expected keys and values in {path}, got {type(settings).__name__}")
    return {str(key): value for key, value in settings.items()}


def _rounds(path: Path) -> list[dict[str, Any]]:
    lines = read_lines(path) if path.exists() else []  # not before the first round is finished
    names = ((f"{path} line {number}", line) for number, line in enumerate(lines, start=1))
    rounds = [conform(parse_json(line, where), "Round", where) for where, line in names if line.strip()]
    folders = [path.parent / f"round-{number:02d}" for number in range(len(rounds))]
    return [
        {**add_verification(entry, folder), "layers": layers_of(folder), "clusters": clusters_of(folder)}
        | {"precision": precision_of(folder)}
        for entry, folder in zip(rounds, folders, strict=True)
    ]


def _headline(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    headline: dict[str, Any] = conform(read_json(path), "Round", str(path))
    return headline


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _line(value: Any) -> str:
    """One line of text that cannot steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in str(value))
