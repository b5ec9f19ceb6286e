"""Which class is taken for which: the matrix of label pairs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.html.labels import Labels
from experiments.html.markup import Safe, details, joined, section, table, tag
from experiments.html.plots import clipped, figure, rectangle, svg, words_at
from experiments.html.shards import Trigger, read_triggers
from experiments.html.survival import searches_of

MOST_CLASSES = 20
"""Rows and columns of a matrix, the classes that take part in most triggers; the data has all pairs."""

MOST_ROWS = 15
"""Pairs in the table, the most frequent ones."""

Pairs = Mapping[tuple[int, int], int]


def pairs_section(
    run_dir: Path, report: Mapping[str, Any], triggers: Sequence[Trigger], labels: Labels, repaired: Mapping[str, bool]
) -> Safe | None:
    """The part of the page on label pairs, None where no trigger was found."""
    if not triggers:
        return None
    matrices = _matrices(run_dir, report, triggers)
    words = (
        "Rows: what the original says; columns: what the compressed model says instead; cells: triggers"
        + (
            " of the same judge seeds, before and after the repair."
            if "before" in matrices
            else " found, all sides and rounds."
        )
        + f" {_all_or_most(matrices)}"
    )
    most = max(max(counts.values()) for counts in matrices.values())
    chosen = _classes(matrices)
    drawn = tag(
        "div", *(_matrix(name, counts, chosen, most, labels) for name, counts in matrices.items()), class_="side"
    )
    data = {
        name: [{"original": one, "compressed": two, "count": count} for (one, two), count in counts.most_common()]
        for name, counts in {**matrices, "all_sides_and_rounds": Counter(trigger.pair for trigger in triggers)}.items()
    }
    made = figure(
        "pairs", "Label pairs", words, drawn, {"classes": labels.names, **data}, _table(triggers, labels, repaired)
    )
    return section("pairs", "Which classes are confused?", made)


def _matrices(
    run_dir: Path, report: Mapping[str, Any], triggers: Sequence[Trigger]
) -> dict[str, Counter[tuple[int, int]]]:
    """Pairs of the judge side before and after the repair; all that was found where one of them has none."""
    folders = searches_of(run_dir, report["rounds"], report["headline"] is not None)
    judged = {
        name: Counter(trigger.pair for trigger in read_triggers(folder, 0) if trigger.side == "judge")
        for name, folder in folders.items()
        if name in ("before", "after")
    }
    if judged.get("before") and judged.get("after"):
        return judged
    return {"found": Counter(trigger.pair for trigger in triggers)}


def _all_or_most(matrices: Mapping[str, Pairs]) -> str:
    known = {label for counts in matrices.values() for pair in counts for label in pair}
    return (
        ""
        if len(known) <= MOST_CLASSES
        else f"Shown are the {MOST_CLASSES} of {len(known)} classes with most triggers."
    )


def _classes(matrices: Mapping[str, Pairs]) -> list[int]:
    involved = Counter[int]()
    for counts in matrices.values():
        for pair, count in counts.items():
            involved.update(dict.fromkeys(pair, count))
    return sorted(label for label, _ in involved.most_common(MOST_CLASSES))


def _matrix(name: str, counts: Pairs, chosen: Sequence[int], most: int, labels: Labels) -> Safe:
    title = {"found": "Triggers found", "before": "Before the repair", "after": "After the repair"}[name]
    brief = all(len(labels.name(label)) <= 2 for label in chosen)
    left, top, cell = (26, 22, 30.0) if brief else (74, 52, 30.0)
    cell = min(cell, 384 / max(1, len(chosen)))
    width, parts = left + cell * len(chosen), []
    for place, label in enumerate(chosen):
        middle = place * cell + cell / 2
        parts.append(words_at((left - 6, top + middle + 4), clipped(labels.name(label), 9), "end"))
        x, y = left + middle, top - 6
        turned = {} if brief else {"transform": f"rotate(-60 {x:g} {y:g})"}
        name = clipped(labels.name(label), 7)
        parts.append(words_at((x, y), name, "middle" if brief else "start", **turned))
    for row, one in enumerate(chosen):
        for column, two in enumerate(chosen):
            corner, count = (left + column * cell, top + row * cell), counts.get((one, two), 0)
            parts.append(_cell(corner, cell, count, most, f"{labels.pair((one, two))}: {count:,}"))
    said = f"{title}: {sum(counts.values()):,} triggers"
    drawing = svg((max(width, 200) + 2, top + cell * len(chosen) + 2), said, *parts, class_="plot matrix")
    return tag("div", tag("p", said, class_="small"), drawing)


def _cell(corner: tuple[float, float], size: float, count: int, most: int, said: str) -> Safe:
    share = (count / most) ** 0.5  # so that rare pairs can be seen beside frequent ones
    square = rectangle(
        corner,
        (size - 1, size - 1),
        tag("title", said),
        class_="heat" if count else "cold",
        fill_opacity=f"{share:.2f}" if count else None,
    )
    if not count or size < 18:
        return square
    middle = (corner[0] + size / 2, corner[1] + size / 2 + 4)
    return joined([square, words_at(middle, f"{count}", class_="over" if share > 0.55 else "beside")])


def _table(triggers: Sequence[Trigger], labels: Labels, repaired: Mapping[str, bool]) -> Safe:
    counts = Counter(trigger.pair for trigger in triggers)
    asked = Counter(trigger.pair for trigger in triggers if trigger.name in repaired)
    agree = Counter(trigger.pair for trigger in triggers if repaired.get(trigger.name))
    header = ["original → compressed", "triggers", "share", *(["repaired"] if asked else [])]
    rows = []
    for pair, count in counts.most_common(MOST_ROWS):
        share = f"{100 * agree[pair] / asked[pair]:.0f} % of {asked[pair]:,}" if asked[pair] else "–"
        known = [share] if asked else []
        rows.append((labels.pair(pair), f"{count:,}", f"{100 * count / len(triggers):.1f} %", *known))
    caption = f"The {len(rows)} most frequent of {len(counts):,} pairs, all sides and rounds"
    return details(caption, table(caption, header, rows))
