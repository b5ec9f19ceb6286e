"""When is a round rolled back? What it breaks on the validate side decides, once and for good."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dflare.errors import InputError
from repair.proof.intervals import Figure


def breaks_too_much(broken: Figure, net: Figure, limit: float | None) -> bool:
    """Whether a round is rolled back: clean validate images broken beyond the gate's limit, or more than were fixed.

    `broken` and `net` (fixed - broken) are shares of the clean images of the validate side, `limit` is
    `gate.max_drawdown`. The second only where chance does not explain it (the 95 % interval of net lies below 0),
    because a small validate side would otherwise undo every other repair of a model that hardly deviates. None: never.
    """
    if limit is None or broken.value is None:
        return False
    return broken.value > limit or (net.high is not None and net.high < 0)


def check_decided(folder: Path, rounds: Iterable[Mapping[str, Any]], limit: float | None) -> None:
    """Raise `InputError` where a finished round of the folder would have been decided otherwise under another limit.

    A run that goes on would mix two rules then, and its end would depend on when it was stopped. A limit under which
    every round is decided as it was makes the same run, and may replace the old one.
    """
    for entry in rounds:
        seen = (entry["repair"] or {}).get("validate") or {}
        broken, net = Figure.of(seen.get("drawdown")), Figure.of(seen.get("net"))
        if broken.value is not None and breaks_too_much(broken, net, limit) != entry["rolled_back"]:
            done, other = ("rolled back", "kept") if entry["rolled_back"] else ("kept", "rolled back")
            was = f" under gate.max_drawdown={_shown(seen['limit'])}" if "limit" in seen else ""
            raise InputError(
                f"round {entry['round']} of the run folder {folder} was {done}{was}, with "
                f"gate.max_drawdown={_shown(limit)} it would have been {other}; choose another run_dir or the old limit"
            )


def _shown(limit: float | None) -> str:
    return "null" if limit is None else f"{limit:g}"
