"""Queries to the first trigger: survival curves of the searches before and after, and of the controls."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.html.curves import Curve, curves, share_after
from experiments.html.markup import Safe, details, joined, section, table
from experiments.html.plots import Point, Scale, area, axes, figure, legend, polyline, svg, words_at

NAMES = {
    "before": "before the repair",
    "after": "after the repair",
    "placebo": "after the placebo",
    "noop": "after the no-op",
}

X, Y = Scale(1, 10, 46, 466, logarithmic=True), Scale(0, 1, 250, 24)


def searches_of(run_dir: Path, rounds: Sequence[Mapping[str, Any]], ended: bool) -> dict[str, Path]:
    """Folders of the judge side's searches: against the model handed in, the latest one kept, and the controls.

    Where every repair was rolled back there is nothing after it.
    """
    kept = [number for number, entry in enumerate(rounds) if not entry["rolled_back"]]
    first = run_dir / "round-00"
    folders = {"before": first / "triggers"}
    if kept:
        last = kept[-1]
        folders["after"] = run_dir / f"round-{last:02d}" / "after"
        summed = run_dir / "headline" / f"placebo-{last:02d}"
        folders["placebo"] = (summed if ended and last else run_dir / f"round-{last:02d}" / "placebo") / "after"
        folders["noop"] = first / "noop" / "after"
    return folders


def survival_section(run_dir: Path, report: Mapping[str, Any]) -> Safe | None:
    """The part of the page on how hard a fresh search is, None where none has ended."""
    ended = report["headline"] is not None
    drawn = curves(searches_of(run_dir, report["rounds"], ended))
    if not drawn:
        return None
    count = int(next(iter(drawn.values())).at_risk[0])
    words = (
        f"The share of {count:,} judge seeds for which a fresh search has found no trigger yet, by the number of "
        "queries (Kaplan-Meier, band: 95 %). Higher is better: the search is harder. A + marks chains that were "
        "censored: their budget was spent without a trigger."
    )
    data = {
        name: {key: value.round(6).tolist() for key, value in curve._asdict().items()} for name, curve in drawn.items()
    }
    title = "Seeds without a trigger"
    made = figure("survival", title, words, _drawing(title, drawn), data, details("The same as a table", _table(drawn)))
    return section("survival", "How hard is it to find a trigger?", made)


def _drawing(title: str, drawn: Mapping[str, Curve]) -> Safe:
    most = max(int(curve.queries[-1]) for curve in drawn.values())
    x = X._replace(high=float(max(10, most)))
    bands = [_band(curve, x, name) for name, curve in drawn.items() if name in ("before", "after")]
    lines = [_line(curve, x, name) for name, curve in drawn.items()]
    return joined(
        [
            legend({name: NAMES[name] for name in drawn}),
            svg(
                (480, 292),
                title,
                axes(x, Y, ("queries (logarithmic)", "without a trigger"), share=True),
                *bands,
                *lines,
            ),
        ]
    )


def _steps(curve: Curve, values: NDArray[np.float64], x: Scale) -> list[Point]:
    points, height = [(x(1), Y(1))], 1.0
    for time, value in zip(curve.queries.tolist(), values.tolist(), strict=True):
        points += [(x(time), Y(height)), (x(time), Y(value))]
        height = value
    return points


def _line(curve: Curve, x: Scale, name: str) -> Safe:
    marks = [
        words_at((x(time), Y(share) + 4), "+", class_=f"mark {name}")
        for time, share, gone in zip(curve.queries.tolist(), curve.surviving.tolist(), curve.censored, strict=True)
        if gone
    ]
    return joined([polyline(_steps(curve, curve.surviving, x), class_=f"curve {name}"), *marks])


def _band(curve: Curve, x: Scale, name: str) -> Safe:
    return area(_steps(curve, curve.high, x)[1:], _steps(curve, curve.low, x)[1:], class_=f"band {name}")


def _table(drawn: Mapping[str, Curve]) -> Safe:
    most = max(int(curve.queries[-1]) for curve in drawn.values())
    places = [place for place in (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000) if place < most]
    header = ["search", *(f"after {place:,} queries" for place in [*places, most]), "found", "censored"]
    rows = [
        (
            NAMES[name],
            *(f"{100 * share_after(curve, place):.1f} %" for place in [*places, most]),
            f"{int(curve.found.sum()):,}",
            f"{int(curve.censored.sum()):,}",
        )
        for name, curve in drawn.items()
    ]
    return table("Share of seeds without a trigger", header, rows)
