"""Which layers answer for the deviations: bars for each round that was looked into, and the tables of report.md."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.html.from_markdown import render
from experiments.html.markup import Safe, details, section
from experiments.html.plots import bars, figure
from experiments.report_layers import SHOWN, layer_section
from repair.proof.verdict import percent


def layers_section(rounds: Sequence[Mapping[str, Any]]) -> Safe | None:
    """The part of the page on layers, the latest round first; None where none was looked into."""
    known = [entry for entry in rounds if entry.get("layers")]
    parts = [_round(entry) for entry in reversed(known)]
    older = [details("Earlier rounds", *parts[1:])] if parts[1:] else []
    return section("layers", "Which layers are responsible?", *parts[:1], *older) if parts else None


def _round(entry: Mapping[str, Any]) -> Safe:
    number, found = entry["round"], entry["layers"]
    title = f"Responsibility of the layers, round {number}"
    words = render(layer_section([entry]), title)
    if not found["evidence"]:
        return words
    rows = []
    for layer in found["layers"][:SHOWN]:
        share = layer["share"]
        value = share["value"] or 0.0
        name = layer["name"] if layer["name"] == layer["kind"] else f"{layer['name']} ({layer['kind']})"
        rows.append((name, value, share["low"], share["high"], percent(value)))
    said = f"The share of each layer in the deviations of {found['triggers']:,} triggers, with its 95 % interval."
    kept = ("name", "kind", "share", "repaired", "broken")
    data = {"method": found["method"], "layers": [{key: layer[key] for key in kept} for layer in found["layers"]]}
    return figure(
        f"layers-{number}", title, said, bars(title, rows), data, details("How to read it, and the table", words)
    )
