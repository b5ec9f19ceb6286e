"""Which layers answer for the deviations: layers.json of a round, for the report. Imports no model code."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.files import read_json
from experiments.report_rows import SHARE, full
from experiments.report_schema import conform
from experiments.report_text import escape, table

SHOWN = 12
"""Layers a table shows; report.json has all."""

BAR = 20
"""Characters of a bar that stands for all of the responsibility."""

WORDS = {
    "intervention": "*Repaired*: triggers that agree once this layer alone is put right (its rounding left out, its "
    "weights as before the compression, or, where neither is possible, one channel held at its mean); *broken*: images "
    "at the decision boundary, which no compressed model chose, that deviate then. The share is what is repaired less "
    "what is broken.",
    "gradient": "The share is how much setting a layer's weights to zero would take off the error of the margin, to "
    "first order, on triggers more than on clean images.",
    "activation": "The share is how far a layer's channels lie from their means on clean images, in standard "
    "deviations.",
    "pareto": "The share is of the weights that both matter for the wrong answers and would mend them if moved "
    "(Arachne).",
}


def layers_of(folder: Path) -> dict[str, Any] | None:
    """What `layers.json` in a round's folder says, None where there is none; raises `InputError` for anything else."""
    path = folder / "layers.json"
    found: dict[str, Any] | None = conform(read_json(path), "Layers", str(path)) if path.exists() else None
    return found


def layer_section(rounds: Iterable[Mapping[str, Any]]) -> list[str]:
    """The part of the page that answers "which layer?", a table for each round that was looked into."""
    found = [(entry["round"], entry["layers"]) for entry in rounds if entry.get("layers")]
    lines = ["## Which layers", ""] if found else []
    for number, layers in found:
        lines += [_introduction(number, layers), ""]
        if layers["evidence"]:
            lines += table(*_table(layers))
        else:
            lines += ["No layer stands out: the method saw no difference.", ""]
    return lines


def _introduction(number: int, layers: Mapping[str, Any]) -> str:
    groups = (
        f" Put right together, {escape(name)} repair {full(SHARE, group['repaired'])} and break "
        f"{full(SHARE, group['broken'])}."
        for name, group in layers["groups"].items()
    )
    return (
        f"The model that entered round {number}, by *{escape(layers['method'])}* on {layers['triggers']:,} triggers. "
        f"{WORDS.get(layers['method'], '')}{''.join(groups)} The intervals are over triggers."
    )


def _table(layers: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, ...]]]:
    mended = any(layer["repaired"] is not None for layer in layers["layers"])
    header = ["layer", "operator", "", "share", *(["repaired", "broken"] if mended else []), "first channels"]
    rows = []
    for layer in layers["layers"][:SHOWN]:
        value = layer["share"]["value"] or 0
        cells = [full(SHARE, {**layer["share"], "n": 0})]
        cells += [
            full(SHARE, {**layer[key], "n": 0}) if layer[key] else "–" for key in ("repaired", "broken") if mended
        ]
        bar = "█" * round(BAR * value)
        rows.append((escape(layer["name"]), escape(layer["kind"]), bar, *cells, _channels(layer["channels"])))
    return header, rows


def _channels(shares: list[float]) -> str:
    """The three channels with the greatest shares, `8 (24 %)`."""
    best = sorted(range(len(shares)), key=lambda channel: -shares[channel])[:3]
    return ", ".join(f"{channel} ({100 * shares[channel]:.0f} %)" for channel in best if shares[channel] > 0) or "–"
