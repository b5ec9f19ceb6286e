"""The table of the ACAS Xu benchmark, its means, and the figures that the default method is to reach."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

HEADINGS = (
    *("row", "method", "counterexamples", "rate before", "repaired %", "unseen %", "new violations %"),
    *("agreement box %", "agreement domain %", "bound before", "bound after", "repair s", "cpu s", "sampling s"),
)

MEANS = (
    *("mean", "rows", "repaired %", "unseen %", "new violations %", "agreement box %", "agreement domain %"),
    *("worst bound after", "repair s", "cpu s", "sampling s"),
)

FIGURES = {
    "repaired": (0.999, False),
    "unseen": (0.9999, False),
    "new_violations": (0.0001, True),
    "agreement_box": (0.99, False),
    "agreement_domain": (0.98, False),
    "seconds": (2.0, True),
}
"""Figure -> what the mean of the default method over the rows is to reach, and whether it is to stay below that."""


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    before, after = row["statement_before"], row["statement_after"]
    share = before["rate"] if row["share"] is None else row["share"]
    cells = [
        row["row"], f"`{row['method']}`", f"{row['counterexamples']} ({row['source']})", f"{share:.2g}",
        *(f"{100 * row[key]:.3f}" for key in ("repaired", "unseen", "new_violations")),
        *(f"{100 * row[key]:.2f}" for key in ("agreement_box", "agreement_domain")),
        f"{before['bound']:.2g}", f"{after['bound']:.2g}", f"{row['seconds']:.2f}", f"{row['cpu_seconds']:.2f}",
        f"{row['sampling_seconds']:.1f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def means(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The table of means, a line for each method among the rows, and how many rows it was measured on."""
    table = [f"| {' | '.join(MEANS)} |", f"| :-- |{' --: |' * (len(MEANS) - 1)}"]
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        mean = {key: fmean(row[key] for row in own) for key in (*FIGURES, "cpu_seconds", "sampling_seconds")}
        worst = max(row["statement_after"]["bound"] for row in own)
        cells = [
            f"`{method}`", f"{len(own)}", f"{100 * mean['repaired']:.3f}",
            *(f"{100 * mean[key]:.4f}" for key in ("unseen", "new_violations")),
            *(f"{100 * mean[key]:.2f}" for key in ("agreement_box", "agreement_domain")),
            f"{worst:.2g}", f"{mean['seconds']:.2f}", f"{mean['cpu_seconds']:.2f}", f"{mean['sampling_seconds']:.1f}",
        ]  # fmt: skip
        table.append(f"| {' | '.join(cells)} |")
    return table


def misses(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The figures that the means over these rows do not reach, in words; none where nothing was measured."""
    found = []
    for name, (target, at_most) in FIGURES.items() if rows else ():
        mean = fmean(row[name] for row in rows)
        if (mean > target) if at_most else (mean < target):
            found.append(f"mean {name} {'<=' if at_most else '>='} {target:g} wanted, measured {mean:.6g}")
    return found
