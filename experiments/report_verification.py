"""What verification.json of a round says, in words and for the report. Imports no model code."""

from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from experiments.files import read_json
from experiments.report_rows import SHARE, dig, full, short
from experiments.report_schema import conform

HEADER = (
    "runtime",
    "original asked by",
    "compressed asked by",
    "triggers",
    "deviate",
    "tied",
    "agree",
    "original changed",
    "compressed changed",
)


PLACES = {"verification": ("triggers", ""), "other_verification": ("triggers-other", ", held out by another strategy")}
"""Key in `search` -> the folder whose triggers were verified, and what a reader is told of them."""


def verification_of(folder: Path) -> dict[str, Any] | None:
    """The verification of the triggers in a folder, None where there is none.

    Raises `InputError` for a file that no verification wrote.
    """
    path = folder / "verification.json"
    found: dict[str, Any] | None = conform(read_json(path), "Verification", str(path)) if path.exists() else None
    return found


def add_verification(entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A Round with the verifications of the triggers in its folder at their places in `search`, where there are any."""
    found = {key: verification_of(folder / name) for key, (name, _) in PLACES.items()}
    found = {key: verification for key, verification in found.items() if verification is not None}
    if not found:
        return entry
    search: dict[str, Any] = conform({**(entry["search"] or {}), **found}, "Searches", str(folder))
    return {**entry, "search": search}


def words(verification: Mapping[str, Any]) -> str:
    """One sentence, and one more for each model that changes its answers; without the last full stop.

    Such as "all 412 triggers deviate in a fresh process; with onnxruntime 1.31.1 unoptimized 371 of 412".
    """
    total, runtimes = verification["triggers"], verification["runtimes"]
    if not total or not runtimes:
        return "no triggers were verified in a fresh process"
    parts: list[str] = []
    for name, asked in runtimes.items():
        count, tied = _count(asked, "deviates"), _count(asked, "tied")
        number = f"{count:,} of {total:,}" if parts or count < total else f"all {total:,}"
        by = "by default" if name == "default" else f"with {_runtime(name, asked)}"
        if parts:
            text = f"{by} {number}"
        else:
            text = f"{number} triggers deviate in a fresh process" + ("" if name == "default" else f" {by}")
        parts.append(text + (f" ({tied:,} tied)" if tied else ""))
    return ". ".join(["; ".join(parts), *_changes(verification)])


def verification_rows(rounds: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The cells below `HEADER`, one row a round and runtime."""
    return [
        (
            f"round {entry['round']}{which}, {name}",
            asked["original"],
            asked["compressed"],
            f"{asked['deviates']['n']:,}",
            *(full(SHARE, asked[key]) for key in ("deviates", "tied", "agrees")),
            *(short(SHARE, asked[f"{model}_changed"]) for model in ("original", "compressed")),
        )
        for entry in rounds
        for key, (_, which) in PLACES.items()
        for name, asked in (dig(entry, "search", key, "runtimes") or {}).items()
    ]


def doubts(rounds: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence for each round whose triggers do not all deviate by default, or one of whose models is no function."""
    found = []
    for entry, (key, (_, which)) in product(rounds, PLACES.items()):
        verification = dig(entry, "search", key)
        if verification is None or not verification["triggers"]:
            continue
        default = verification["runtimes"].get("default")
        if _changes(verification) or (default is not None and _count(default, "deviates") < verification["triggers"]):
            found.append(f"Round {entry['round']}{which}: {words(verification)}.")
    return found


def _changes(verification: Mapping[str, Any]) -> list[str]:
    """Which models answer the same image in different ways, one sentence without its full stop each."""
    total, sentences = verification["triggers"], []
    for model in ("original", "compressed"):
        changed = [
            f"{_count(asked, f'{model}_changed'):,} of {total:,} ({name})"
            for name, asked in verification["runtimes"].items()
            if model in asked["nondeterministic"]
        ]
        if changed:
            sentences.append(
                f"The {model} model is not deterministic: asked the same image again, it changed its scores on "
                f"{', '.join(changed)}"
            )
    return sentences


def _count(asked: Mapping[str, Any], key: str) -> int:
    """How many triggers a share stands for."""
    return round((asked[key]["value"] or 0) * asked[key]["n"])


def _runtime(name: str, asked: Mapping[str, Any]) -> str:
    """What answers with these kernels: of the two models, those whose format has them."""
    said = [asked[model] for model in ("compressed", "original") if asked[model].endswith(f" {name}")]
    return " and ".join(dict.fromkeys(said)) or name
