"""What environment.json says of the models and of what answered for them, for the report. Imports no model code."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report_rows import count
from experiments.report_schema import conform
from experiments.report_text import escape, table
from repair.proof.verdict import percent

HEADER = ("model", "file", "format", "bytes", "parameters", "integer share", "runtime", "threads")


ELSEWHERE = ("models", "continued", "workers", "preflight", "class_names")
"""What of environment.json is here or with the triggers, and at length in that file."""


def models_of(environment: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fingerprints of the models by their names, none for a pair that was opened in memory.

    Raises `InputError`, naming the key under `where`, for what no run wrote.
    """
    found: dict[str, Any] = conform(environment.get("models") or {}, "Models", f"{where} models")
    return found


def runtime_warnings(environment: Mapping[str, Any]) -> list[str]:
    """The sentences of the pre-flight, and those of a continued run or a worker on another runtime, each once."""
    entries = [environment.get("preflight") or {}, *_entries(environment, "continued")]
    entries += _entries(environment, "workers")
    lists = [entry["warnings"] for entry in entries if isinstance(entry.get("warnings"), list)]
    return list(dict.fromkeys(text for texts in lists for text in texts if isinstance(text, str)))


def continued_at(environment: Mapping[str, Any]) -> str | None:
    """When the run went on in an environment that was not quite the same; None: never."""
    return ", ".join(str(entry.get("created")) for entry in _entries(environment, "continued")) or None


def model_section(models: Mapping[str, Any], warnings: Sequence[str]) -> list[str]:
    """The lines of the page on the models and their runtimes, none where nothing is known."""
    rows = [[escape(cell) for cell in row] for row in model_rows(models)]
    words = (
        "As the run began with them. *Parameters* are the numbers in weights, biases and factors that the graph reads; "
        "*integer share* is that of integers of at most 8 bits among the weights of two or more dimensions."
    )
    lines = [words, "", *table(HEADER, rows, numbers=False)] if rows else []
    lines += [*(f"- Warning: {escape(text)}." for text in warnings), ""] if warnings else []
    return ["## Models and runtimes", "", *lines] if lines else []


def model_rows(models: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The cells below `HEADER`; `–` for what is not known."""
    return [
        (
            name,
            _text(model["file"]),
            _text(model["format"]),
            _count(_whole_size(model)),
            _count(model["parameters"]),
            percent(model["integer_share"]),
            _text(model["runtime"]),
            _count(model["threads"]),
        )
        for name, model in models.items()
    ]


def _entries(environment: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    entries = environment.get(key)
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _whole_size(model: Mapping[str, Any]) -> int | None:
    """Bytes of the file and of those beside it in which its weights lie."""
    if model["bytes"] is None:
        return None
    beside = (model["external"] or {}).values()
    return int(model["bytes"]) + sum(file["bytes"] or 0 for file in beside)


def _text(value: str | None) -> str:
    return "–" if value is None else value


def _count(value: int | None) -> str:
    return "–" if value is None else count(value)
