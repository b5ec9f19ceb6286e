"""The words of a robustness repair: the summary on a terminal and report.md, verdict first."""

from collections.abc import Callable, Iterator, Mapping
from textwrap import wrap
from typing import Any

from experiments.report_text import escape, fenced, table

WIDTH = 100
"""Characters of a line of the summary."""

COLUMNS = {"before": "unrepaired", "after": "repaired"}
"""Model -> its column."""

FIGURES = {
    "centres": "repaired balls, centre answered as wanted",
    "attacked": "repaired balls that an attack breaks",
    "unseen": "unseen misbehaving balls that an attack breaks",
    "calm": "unseen well-behaved balls that an attack breaks",
    "right": "images of the judge side answered as wanted",
    "broken": "of these, right before and wrong now",
    "fixed": "of these, wrong before and right now",
}

WHAT_IT_IS = (
    "The statement is about uniform draws: one of the balls, then an image in it. It is no certificate, an adversary "
    "does not draw uniformly; the shares that an attack breaks are evidence against only"
)


def summary_text(report: Mapping[str, Any]) -> str:
    """The report on a terminal: verdict, statements, figures, where the files are."""
    folder = report["config"]["run_dir"]
    lines = [f"{report['name']}: {verdict(report)}"]
    for sentence in sentences(report):
        lines += wrap(sentence, WIDTH, initial_indent="  ", subsequent_indent="    ")
    cells = [["", *_columns(report).values()], *_rows(report, _short)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines.append("")
    for label, *others in cells:
        aligned = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        lines.append(f"{label.ljust(widths[0])}  {'  '.join(aligned)}".rstrip())
    made = [f"model:   {folder}/repaired{_suffix(report)}"] if report["after"] else []
    return "\n".join([*lines, "", f"report:  {folder}/report.md", f"data:    {folder}/report.json", *made])


def markdown(report: Mapping[str, Any], settings: str) -> str:
    """The whole page; `settings` is the text of config.yaml."""
    lines = [f"# {escape(report['name'])}", "", f"**{escape(verdict(report))}**", ""]
    lines += [f"- {escape(sentence)}" for sentence in sentences(report)] + ["", "## Figures", ""]
    lines += [
        "Models are files, asked by their runtime. Unseen and well-behaved balls, and the images below them, are of "
        "the judge side, which no repair has seen. Brackets hold 95 % intervals.",
        "",
    ]
    lines += table(["figure", *_columns(report).values()], _rows(report, _full))
    lines += ["## Settings", "", *fenced(settings, "yaml")]
    return "\n".join(lines).rstrip() + "\n"


def verdict(report: Mapping[str, Any]) -> str:
    """One sentence, without its full stop: whether the bound asked for holds, and of which model."""
    asked = report["config"]["robustness"]
    which = "the repaired model" if report["after"] else "the model as it is"
    holds = "holds" if report["gate"]["passed"] else "does NOT hold"
    return (
        f"the bound of {asked['epsilon']:g} on the mean violation rate in balls of radius {asked['radius']:g}, with "
        f"confidence {_confidence(asked['delta'])}, {holds} for {which}"
    )


def sentences(report: Mapping[str, Any]) -> Iterator[str]:
    """What stands below the verdict, statements first."""
    for key, title in reversed(_columns(report).items()):
        one = report[key]["statement"]
        yield (
            f"{title}: the mean violation rate is at most {one['bound']:.3g} with confidence "
            f"{_confidence(one['delta'])} ({one['violations']} violations in {one['samples']} fresh draws from "
            f"{report[key]['attacked']['n']} balls)."
        )
    yield f"{WHAT_IT_IS}."
    for name, found in report["verification"].items():
        for one in found["verdicts"]:
            yield f"{one['claim']}, {COLUMNS[name]}: {one['outcome']} in {one['seconds']:.1f} s, {one['why']}."
    yield from (f"{reason}." for reason in report["gate"]["reasons"])
    if not report["before"]["misbehaving"]:
        yield "No image misbehaves among those looked at, so there is nothing to repair and the balls are theirs."
    elif report["after"] is None:
        yield "Nothing was repaired, as robustness.method=none says."
    else:
        done = report["repair"]
        took = f"{done['seconds']:.1f} s, {done['cpu_seconds']:.1f} s of the processor"
        yield f"The repair by {done['method']} took {took}."


def _confidence(delta: float) -> str:
    return f"{100 * (1 - delta):.10g} %"


def _suffix(report: Mapping[str, Any]) -> str:
    config = report["config"]
    return "." + str(config["model"] or config["pair"]["compressed"]).rpartition(".")[2]


def _columns(report: Mapping[str, Any]) -> dict[str, str]:
    """The models that were judged, and what their columns are called."""
    return {key: title for key, title in COLUMNS.items() if report[key] is not None}


def _rows(report: Mapping[str, Any], cell: Callable[[Mapping[str, Any]], str]) -> Iterator[list[str]]:
    """Label and cells of each figure, and of the bound."""
    models = [report[key] for key in _columns(report)]
    for key, label in FIGURES.items():
        yield [label, *(cell(model[key]) for model in models)]
    yield ["bound on the mean violation rate", *(f"{model['statement']['bound']:.3g}" for model in models)]


def _short(figure: Mapping[str, Any]) -> str:
    """A share in per cent."""
    return "–" if figure["value"] is None else f"{100 * figure['value']:.2f} %"


def _full(figure: Mapping[str, Any]) -> str:
    """The same with its interval and n."""
    if figure["value"] is None:
        return "–"
    return f"{_short(figure)} [{100 * figure['low']:.2f}, {100 * figure['high']:.2f}], n={figure['n']}"
