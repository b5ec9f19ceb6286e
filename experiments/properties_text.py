"""The words of `dflare properties`: the summary on a terminal and report.md, verdict first."""

from collections.abc import Callable, Iterator, Mapping
from textwrap import wrap
from typing import Any

from experiments.report_text import escape, fenced, table

WIDTH = 100
"""Characters of a line of the summary."""

FIGURES = {
    "repaired": "counterexamples repaired",
    "unseen": "unseen counterexamples repaired",
    "new_violations": "safe inputs that now violate",
    "agreement_box": "decided as before, safe inputs of the boxes",
    "agreement_domain": "decided as before, whole domain",
}

COLUMNS = {"before": "unrepaired", "after": "repaired", "plain": "control `plain`"}
"""Network -> its column; the unrepaired one is the no-op."""

NO_DOMAIN = (
    "Outside the boxes of the property nothing was kept or judged; "
    "say with properties.domain where else the network is used"
)


def summary_text(report: Mapping[str, Any]) -> str:
    """The report on a terminal: verdict, statements, figures, where the files are."""
    folder = report["config"]["run_dir"]
    lines = [f"{report['name']}: {verdict(report)}"]
    for sentence in sentences(report):
        lines += wrap(sentence, WIDTH, initial_indent="  ", subsequent_indent="    ")
    header, rows = _columns(report), list(_rows(report, _short))
    if rows:
        cells = [["", *(name.replace("`", "") for name in header.values())], *rows]
        widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
        lines.append("")
        for label, *others in cells:
            aligned = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
            lines.append(f"{label.ljust(widths[0])}  {'  '.join(aligned)}".rstrip())
    made = [f"network: {folder}/repaired.onnx"] if report["after"] else []
    return "\n".join([*lines, "", f"report:  {folder}/report.md", f"data:    {folder}/report.json", *made])


def markdown(report: Mapping[str, Any], settings: str) -> str:
    """The whole page; `settings` is the text of config.yaml."""
    lines = [f"# {escape(report['name'])}", "", f"**{escape(verdict(report))}**", ""]
    lines += [f"- {escape(sentence)}" for sentence in sentences(report)] + [""]
    if rows := list(_rows(report, _full)):
        lines += ["## Before and after", ""]
        lines += [
            "All networks are files, asked by ONNX Runtime. Unseen counterexamples and safe inputs were drawn apart "
            "from those that the repair was given. The control pushes counterexamples out and keeps nothing else; the "
            "unrepaired network is the no-op. Brackets hold 95 % intervals.",
            "",
        ]
        lines += table(["figure", *_columns(report).values()], rows)
    lines += ["## Statements", ""]
    header = ["property", "network", "fresh samples", "violations", "confidence", "violation rate at most"]
    lines += table(header, _statement_rows(report))
    lines += ["## Samples", "", *(f"- {escape(one)}" for one in _sample_sentences(report)), ""]
    lines += ["## Settings", "", *fenced(settings, "yaml")]
    return "\n".join(lines).rstrip() + "\n"


def verdict(report: Mapping[str, Any]) -> str:
    """One sentence, without its full stop: whether the bound asked for holds, and of which network."""
    asked = report["config"]["properties"]
    which = "the repaired network" if report["after"] else "the network as it is"
    holds = "holds" if report["gate"]["passed"] else "does NOT hold"
    return (
        f"the bound of {asked['epsilon']:g} on the violation rate, with confidence {_confidence(asked['delta'])}, "
        f"{holds} for {which}"
    )


def sentences(report: Mapping[str, Any]) -> Iterator[str]:
    """What stands below the verdict, statements first."""
    for index, one in enumerate((report["after"] or report["before"])["statements"]):
        yield f"{one['property']}: {_statement(one)}."
        if report["after"]:
            yield f"{one['property']}, unrepaired: {_statement(report['before']['statements'][index])}."
    yield from _verdicts(report["verification"])
    yield from (f"{reason}." for reason in report["gate"]["reasons"])
    if report["after"] is None:
        why = "No counterexample was found to repair with, so there is nothing to repair"
        yield f"{why if report['samples'] else 'Nothing was repaired, as properties.method=none says'}."
    elif report["config"]["properties"]["domain"] is None:
        yield f"{NO_DOMAIN}."


def _verdicts(verification: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for every verdict of a verifier."""
    for name, found in verification.items():
        for one in found["verdicts"]:
            yield f"{one['claim']}, {COLUMNS[name]}: {one['outcome']} in {one['seconds']:.1f} s, {one['why']}."


def _statement(one: Mapping[str, Any]) -> str:
    return (
        f"the violation rate is at most {one['bound']:.3g} with confidence {_confidence(one['delta'])} "
        f"({one['violations']} violations in {one['samples']} fresh samples)"
    )


def _confidence(delta: float) -> str:
    return f"{100 * (1 - delta):.10g} %"


def _columns(report: Mapping[str, Any]) -> dict[str, str]:
    """The networks that were judged, and what their columns are called."""
    return {key: title for key, title in COLUMNS.items() if report[key] is not None}


def _rows(report: Mapping[str, Any], cell: Callable[[Mapping[str, Any]], str]) -> Iterator[list[str]]:
    """Label and cells of each figure; none where nothing was repaired."""
    networks = [report[key] for key in _columns(report)]
    for key, label in FIGURES.items() if report["after"] else ():
        yield [label, *(cell(network[key]) for network in networks)]
    if report["after"]:
        bounds = [max(one["bound"] for one in network["statements"]) for network in networks]
        yield ["bound on the violation rate", *(f"{bound:.3g}" for bound in bounds)]


def _statement_rows(report: Mapping[str, Any]) -> Iterator[list[str]]:
    for key, title in _columns(report).items():
        for one in report[key]["statements"]:
            numbers = [str(one["samples"]), str(one["violations"]), _confidence(one["delta"]), f"{one['bound']:.3g}"]
            yield [escape(one["property"]), title, *numbers]


def _sample_sentences(report: Mapping[str, Any]) -> Iterator[str]:
    samples, repaired = report["samples"], report["repair"]
    if samples is None:
        yield "none were drawn but the fresh ones of the statements"
        return
    for side, purpose in (("train", "to repair with"), ("judge", "to judge with")):
        bad, safe = samples[side]
        own = [what for what, mine in zip(("counterexamples", "safe inputs"), samples["own"], strict=True) if mine]
        of = f" ({' and '.join(own)} from one's own files)" if own and side == "train" else ""
        yield f"{bad} counterexamples and {safe} safe inputs {purpose}{of}"
        for one in samples["drawn"][side]:
            yield (
                f"found by {one['method']} in {one['seconds']:.1f} s: {one['hits']} of {one['draws']} uniform draws "
                f"violate, their share is about {one['share']:.2g}"
            )
    if repaired is not None:
        took = f"{repaired['seconds']:.2f} s, {repaired['cpu_seconds']:.2f} s of the processor"
        yield f"the repair by {repaired['method']} took {took}"


def _short(figure: Mapping[str, Any]) -> str:
    """A share in per cent."""
    return "–" if figure["value"] is None else f"{100 * figure['value']:.3f} %"


def _full(figure: Mapping[str, Any]) -> str:
    """The same with its interval and n."""
    if figure["value"] is None:
        return "–"
    return f"{_short(figure)} [{100 * figure['low']:.3f}, {100 * figure['high']:.3f}], n={figure['n']}"
