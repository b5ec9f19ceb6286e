"""The rows of the comparison, and how their numbers are written: shared by the page and the terminal."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from repair.proof.intervals import Figure
from repair.proof.verdict import percent

Cell = Mapping[str, Any] | None
"""A Figure as report.json has it; None where a figure makes no sense or is missing."""

SHARE = "share"


class Row(NamedTuple):
    """One figure before the repair, after it, and for its two controls."""

    label: str
    kind: str  # of `KINDS`
    before: Cell
    after: Cell
    placebo: Cell
    noop: Cell

    @property
    def cells(self) -> tuple[Cell, Cell, Cell, Cell]:
        """The four cells in the order of the columns."""
        return self.before, self.after, self.placebo, self.noop


def count(value: float) -> str:
    """A count or a number of bytes, `12,345`."""
    return f"{value:,.0f}"


KINDS: dict[str, Callable[[float], str]] = {
    SHARE: percent,
    "queries": lambda value: f"{value:,.1f}",
    "times": lambda value: f"{value:.2f}",
    "milliseconds": lambda value: f"{value:.3g} ms",
    "bytes": count,
}


def comparison(outcome: Mapping[str, Any]) -> list[Row]:
    """The rows of a Round or headline that has been through `conform`; rows without any figure are left out."""
    look = Lookup(outcome)
    accuracy = "accuracy"
    rows = [
        look.repair("efficacy: training triggers repaired", "efficacy"),
        look.repair("generalization: held-out triggers repaired", "generalization"),
        look.repair(f"held-out triggers of another search{_by(outcome)}", "generalization_other"),
        look.repair("held-out triggers found by this round repaired", "generalization_new"),
        look.repair("held-out triggers of earlier rounds repaired", "earlier"),
        look.search("fresh search: success rate", SHARE, "success_rate"),
        look.search("fresh search: queries per trigger, mean", "queries", "queries_per_trigger", "mean"),
        look.search("fresh search: queries per trigger, median", "queries", "queries_per_trigger", "median"),
        look.row("fresh search: queries after / before", "times", None, ("search", "queries_ratio")),
        look.repair("clean images: agreement", "clean_agreement_after", "clean_agreement_before"),
        look.repair("clean images: broken (drawdown)", "drawdown"),
        look.repair("clean images: fixed", "fixed"),
        look.repair("clean images: net (fixed - broken)", "net"),
        look.repair("probe: deviation rate", "probe_after", "probe_before"),
        *(
            [look.repair("probe: labels differ, ties included", "probe_labels_after", "probe_labels_before")]
            * _tied(outcome)
        ),
        look.row("accuracy", SHARE, (accuracy, "before"), (accuracy, "after")),
        look.cost("bytes of the file", "bytes", "bytes"),
        look.cost("bytes of the weights in use", "bytes", "payload"),
        look.cost("latency of one image", "milliseconds", "latency"),
    ]
    return [row for row in rows if any(cell is not None and cell.get("value") is not None for cell in row.cells)]


def _tied(outcome: Mapping[str, Any]) -> bool:
    """Whether some probe images of the repair have differing labels and still do not deviate."""
    pairs = [
        [dig(outcome, "repair", f"{name}_{when}") for name in ("probe", "probe_labels")] for when in ("before", "after")
    ]
    return any(rate and labels and rate["value"] != labels["value"] for rate, labels in pairs)


def _by(outcome: Mapping[str, Any]) -> str:
    name = dig(outcome, "repair", "other_strategy")
    return f" ({name})" if name else ""


class Lookup:
    """Finds the cells of a row in the four places of a Round."""

    def __init__(self, outcome: Mapping[str, Any]) -> None:
        self.outcome = outcome

    def row(self, label: str, kind: str, before: tuple[str, ...] | None, after: tuple[str, ...]) -> Row:
        """A row by the key paths of its before and after; the controls have theirs at the path of `after`."""
        controls = [dig(self.outcome, name, *after) for name in ("placebo", "noop")]
        return Row(label, kind, dig(self.outcome, *before) if before else None, dig(self.outcome, *after), *controls)

    def repair(self, label: str, after: str, before: str | None = None) -> Row:
        """A share of the block `repair`."""
        return self.row(label, SHARE, ("repair", before) if before else None, ("repair", after))

    def search(self, label: str, kind: str, *keys: str) -> Row:
        """A figure of the fresh search."""
        return self.row(label, kind, ("search", "before", *keys), ("search", "after", *keys))

    def cost(self, label: str, kind: str, key: str) -> Row:
        """A figure of the block `cost`; a plain number becomes a figure without interval."""
        before, after = (dig(self.outcome, "cost", f"{key}_{when}") for when in ("before", "after"))
        cells = [Figure(x, None, None, 0).as_dict() if isinstance(x, int | float) else x for x in (before, after)]
        return Row(label, kind, cells[0], cells[1], None, None)


def dig(value: Any, *keys: str) -> Any:
    """The value under nested keys, None as soon as something on the way is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def short(kind: str, cell: Cell) -> str:
    """The value alone, `74.2 %`; `–` where there is none."""
    return "–" if cell is None or cell.get("value") is None else KINDS[kind](cell["value"])


def full(kind: str, cell: Cell) -> str:
    """Value, interval and n: `74.2 % [71.4 %, 76.8 %], n = 1,000`; an open end is `…`."""
    if cell is None or cell.get("value") is None:
        return "–"
    ends = ["…" if cell.get(end) is None else KINDS[kind](cell[end]) for end in ("low", "high")]
    interval = "" if ends == ["…", "…"] else f" [{ends[0]}, {ends[1]}]"
    return short(kind, cell) + interval + (f", n = {cell['n']:,}" if cell.get("n") else "")
