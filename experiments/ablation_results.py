"""What one run of an ablation came to: figures by name, out of its run folder."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.ablation_grid import Cell
from experiments.files import read_json, write_atomic
from repair.proof.intervals import Figure

Report = Mapping[str, Any]


class Measure(NamedTuple):
    """A figure that arms are compared by."""

    words: str
    better: int  # 1: more, -1: less, 0: neither
    percent: bool
    read: Callable[[Report], float | None]  # of a report's headline


def _value(*path: str) -> Callable[[Report], float | None]:
    def read(report: Report) -> float | None:
        found: Any = report
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return Figure.of(found).value if isinstance(found, Mapping) or found is None else found

    return read


def _minus(first: Callable[[Report], float | None], second: Callable[[Report], float | None]) -> Any:
    def read(report: Report) -> float | None:
        a, b = first(report), second(report)
        return None if a is None or b is None else a - b

    return read


def _over(first: Callable[[Report], float | None], second: Callable[[Report], float | None]) -> Any:
    def read(report: Report) -> float | None:
        a, b = first(report), second(report)
        return a / b if a is not None and b else None

    return read


_GENERALIZATION = _value("repair", "generalization")

SEARCH = {
    "success": Measure("seeds on which a trigger was found", 1, True, _value("search", "before", "success_rate")),
    "queries": Measure(
        "queries per trigger, mean", -1, False, _value("search", "before", "queries_per_trigger", "mean")
    ),
}
"""Of the search against the model as handed in, on judge seeds."""

REPAIR = {
    "generalization": Measure("held-out triggers repaired", 1, True, _GENERALIZATION),
    "generalization_other": Measure(
        "held-out triggers of another search repaired", 1, True, _value("repair", "generalization_other")
    ),
    "over_placebo": Measure(
        "generalization minus the placebo's",
        1,
        True,
        _minus(_GENERALIZATION, _value("placebo", "repair", "generalization")),
    ),
    "probe_ratio": Measure(
        "probe deviation rate, after / before",
        -1,
        False,
        _over(_value("repair", "probe_after"), _value("repair", "probe_before")),
    ),
    "queries_ratio": Measure("queries per trigger, after / before", 1, False, _value("search", "queries_ratio")),
    "drawdown": Measure("clean images broken", -1, True, _value("repair", "drawdown")),
    "accuracy_change": Measure(
        "accuracy, after - before", 1, True, _minus(_value("accuracy", "after"), _value("accuracy", "before"))
    ),
    "seconds": Measure("seconds of the repair", -1, False, _value("cost", "seconds")),
}
"""Of a repair, as its report's headline has them."""

MEASURES = {**SEARCH, **REPAIR}

FOR = {"loop": MEASURES, "search": SEARCH}
"""Verb -> what its runs have."""


def read_run(cell: Cell, folder: Path, verb: str) -> dict[str, Any]:
    """The figures of a finished run, and which one it is; what a run does not have is None."""
    headline = _searched(cell, folder) if verb == "search" else read_json(folder / "report.json")["headline"] or {}
    figures = {name: measure.read(headline) for name, measure in FOR[verb].items()}
    return {"arm": cell.arm, "block": cell.block, "seed": cell.seed, "run": cell.name, **figures}


def _searched(cell: Cell, folder: Path) -> Report:
    """What a report would say of a search, by the chains of its judge side."""
    from dflare.shards import read_endings
    from dflare.triggers import Side
    from repair.proof import evidence, metrics

    endings = read_endings(folder / "round-00" / "triggers").side(Side.judge)
    figures = evidence.search_figures(endings, cell.settings["search"]["max_queries"], cell.seed)
    return {"search": {"before": metrics.plain(figures)}}


def write_results(folder: Path, done: Sequence[Mapping[str, Any]]) -> None:
    """`results.jsonl` and `results.csv`, one line a run; pandas reads both."""
    write_atomic(folder / "results.jsonl", "".join(json.dumps(one) + "\n" for one in done))
    text = io.StringIO()
    table = csv.DictWriter(text, list(done[0]) if done else [], lineterminator="\n")
    table.writeheader()
    table.writerows(done)
    write_atomic(folder / "results.csv", text.getvalue())
