"""Mixed precision: precision.json of a run and what its controls came to, for the report. Imports no model code."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.files import read_json
from experiments.report_rows import SHARE, dig, full, short
from experiments.report_schema import conform
from experiments.report_text import escape, table
from repair.proof.verdict import percent

SHOWN = 12
"""Names of tensors that a sentence lists, and rows that a frontier shows; report.json has all."""

ROWS = (
    ("held-out triggers repaired", SHARE, ("repair", "generalization")),
    ("the same, found by another strategy", SHARE, ("repair", "generalization_other")),
    ("probe: deviation rate", SHARE, ("repair", "probe_after")),
    ("clean images: broken", SHARE, ("repair", "drawdown")),
    ("clean images: fixed", SHARE, ("repair", "fixed")),
    ("fresh search: queries after / before", "times", ("search", "queries_ratio")),
    ("accuracy", SHARE, ("accuracy", "after")),
)
"""What is compared: words, kind of number, place in a Round and in its controls."""

COLUMNS = {
    "the bits alone": "bits",
    "placebo, same bits": "placebo",
    "repair": None,
    "placebo without the bits": "eight_bit",
}
"""Heading -> key of the control, None for the repair itself."""


def precision_of(folder: Path) -> dict[str, Any] | None:
    """What `precision.json` in a round's folder says, None where there is none; `InputError` for anything else."""
    path = folder / "precision.json"
    found: dict[str, Any] | None = conform(read_json(path), "Precision", str(path)) if path.exists() else None
    return found


def precision_section(rounds: Iterable[Mapping[str, Any]], headline: Mapping[str, Any] | None) -> list[str]:
    """The part of the page on mixed precision: what got 16 bits, the frontier, and what bits and triggers each did."""
    found = next((entry["precision"] for entry in rounds if entry.get("precision")), None)
    if found is None:
        return []
    lines = ["## Mixed precision", "", escape(precision_words(found)), ""]
    if found["orders"]:
        looked = found["images"]
        lines += [
            f"The frontier: cost against the share of {looked['validate']:,} mutated images of the validate side on "
            "which the two labels differ, ties included (of these, in brackets, no tie). The order *greedy* comes from "
            f"{looked['train']:,} mutated images of the train side and {looked['train_triggers']:,} of its triggers; "
            "*size* and *chance* are its controls. No judge image had a say.",
            "",
            *table(*_frontier(found)),
        ]
    return lines + (_controls(headline) if headline is not None else [])


def precision_words(found: Mapping[str, Any]) -> str:
    """What a mixed precision repair did to the file, and what is left to do, in a few sentences."""
    before, after = found["before"], found["after"]
    parts = [f"{after['grids']} of {found['grids']} grids of activations ({_names(found['tensors'])})"]
    parts = parts if found["tensors"] else []
    count = "1 weight" if len(found["weights"]) == 1 else f"{len(found['weights'])} weights"
    parts += [f"{count} ({_names(found['weights'])})"] if found["weights"] else []
    said = [f"16 bits for {' and '.join(parts)}." if parts else "No tensor got more bits."]
    said += ["The output is not rounded any more."] if found["float_output"] else []
    if parts or found["float_output"]:
        cost = f"{before['bytes']:,} to {after['bytes']:,} bytes, {_ms(before)} to {_ms(after)} for one image"
        said.append(f"{cost}; labels that differ from the original's: {_share(before)} before, {_share(after)} after.")
    steps = found["orders"].get(found["choose"]) if found["choose"] else None
    if steps:
        best = min(steps, key=lambda step: step["differing"]["value"] or 0)
        if best["grids"] != after["grids"]:
            cost = f"{best['grids']} grids, {best['bytes']:,} bytes, {_ms(best)}"
            said += [f"The best file of the frontier ({cost}) has {_share(best)}, which is not clearly better."]
    if dig(before, "deviating", "value") is not None and _risen(before, after):
        said.append(
            f"More images deviate than before ({percent(before['deviating']['value'])} to "
            f"{percent(after['deviating']['value'])}): ties of the rounded output, which count as agreement, are "
            "decided now."
        )
    return " ".join([*said, *_left(found, steps[-1] if steps else after)])


def _left(found: Mapping[str, Any], finest: Mapping[str, Any]) -> list[str]:
    """What the finest grids of the activations leave is the weights' rounding, and what that would cost."""
    if found["activations"] is None or finest["grids"] < found["grids"] or not found["next_weight"]:
        return []
    size = found["before"]["bytes"]
    least, most = (percent(found[key] / size) for key in ("next_weight", "all_weights"))
    return [
        f"With every activation at 16 bits {_share(finest)} is left, by the rounding of the weights: only training "
        f"moves it, with repair.precision.weights on finer grids ({least} of the file's bytes for the smallest weight "
        f"that has 8 bits, {most} for all)."
    ]


def _frontier(found: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, ...]]]:
    """A row for each number of grids at 16 bits: cost and names of the order that was used, the others beside it."""
    ways, main = found["orders"], found["choose"]
    others = [name for name in ways if name != main]
    by_count = {name: {step["grids"]: step for step in steps} for name, steps in ways.items()}
    header = ["16-bit grids", "bytes", "one image", main, *others, "added"]
    rows, known = [], set[str]()
    for number, step in enumerate(ways[main]):
        added, known = [name for name in step["tensors"] if name not in known], {*known, *step["tensors"]}
        taken = " (taken)" if number == found["taken"] else ""
        cells = [_both(by_count[name].get(step["grids"])) for name in others]
        count = f"{step['grids']}{taken}"
        rows.append((count, f"{step['bytes']:,}", _ms(step), _both(step), *cells, escape(_names(added))))
    last = len(rows) - 1
    kept = {round(last * part / (SHOWN - 1)) for part in range(SHOWN)} | {found["taken"]}
    return header, [row for number, row in enumerate(rows) if number in kept]


def _controls(headline: Mapping[str, Any]) -> list[str]:
    """What bits, clean training and triggers each did, from the model as handed in."""
    if not headline.get("bits"):
        return []
    blocks = [headline if key is None else headline.get(key) for key in COLUMNS.values()]
    rows = [(words, *(full(kind, dig(block, *path)) for block in blocks)) for words, kind, path in ROWS]
    rows = [row for row in rows if set(row[1:]) != {"–"}]
    words = (
        "All against the model as handed in: its file with the bits, untrained; trained on clean images; the repair, "
        "trained on triggers; and trained on clean images without the bits. "
    )
    said = dig(headline, "gains", "words") or ""
    return [words + escape(said), "", *table(["figure", *COLUMNS], rows)]


def _both(step: Mapping[str, Any] | None) -> str:
    return "–" if step is None else f"{_share(step)} ({short(SHARE, step['deviating'])})"


def _share(step: Mapping[str, Any]) -> str:
    return short(SHARE, step["differing"])


def _ms(step: Mapping[str, Any]) -> str:
    return f"{step['milliseconds']:.3g} ms"


def _risen(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    low, high = after["deviating"]["low"], before["deviating"]["high"]
    return low is not None and high is not None and low > high


def _names(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more or "–"
