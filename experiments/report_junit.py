"""The gate for machines that build software: junit.xml, and the summary of a GitHub job."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from experiments.gate import NOTHING_REPAIRED
from experiments.report_markdown import comparison_section, rounds_section, verdict_lines
from experiments.report_text import escape

SUMMARY = "GITHUB_STEP_SUMMARY"
"""Environment variable with the file that GitHub shows on the page of a job."""

_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, section 2.2."""


class Case(NamedTuple):
    """One limit of the gate."""

    name: str
    passed: bool
    words: str


def junit(report: Mapping[str, Any]) -> str:
    """junit.xml of a completed report: a test case for each limit of its gate, a failure where one does not hold.

    A run that has not ended has one case, which fails; a gate without limits has one, which passes.
    """
    cases = list(_cases(report["gate"]))
    failures = sum(not case.passed for case in cases)
    name, stamp = _legal(f"dflare gate of {report['name']}"), _legal(str(report["created"]))
    counts = {"tests": str(len(cases)), "failures": str(failures), "errors": "0"}
    root = ElementTree.Element("testsuites", {"name": "dflare", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": name, "timestamp": stamp, **counts, "skipped": "0"})
    for case in cases:
        entry = ElementTree.SubElement(suite, "testcase", {"classname": "dflare.gate", "name": case.name, "time": "0"})
        told = _legal(case.words)
        if case.passed:
            ElementTree.SubElement(entry, "system-out").text = told
        else:
            ElementTree.SubElement(entry, "failure", {"type": "gate", "message": told}).text = told
    headline = report["headline"]
    if headline is not None and headline["beats_placebo_words"]:
        ElementTree.SubElement(suite, "system-out").text = _legal(headline["beats_placebo_words"])
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def job_summary(report: Mapping[str, Any]) -> str:
    """Markdown for the page of a job: the verdict, before and after, and the rounds."""
    headline = report["headline"]
    parts: list[Sequence[str]] = [[f"# dflare: {escape(report['name'])}", ""], verdict_lines(report)]
    parts += [comparison_section(headline)] if headline is not None else []
    parts += [rounds_section(report["rounds"])]
    return "\n".join(line for part in parts for line in part).rstrip() + "\n\n"


def add_job_summary(report: Mapping[str, Any]) -> None:
    """Append `job_summary` to the file that `GITHUB_STEP_SUMMARY` names, in a GitHub job; elsewhere nothing.

    Not written in one piece: the file is the job's own, and other steps append to it too.
    """
    if path := os.environ.get(SUMMARY):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(job_summary(report))


def _cases(gate: Mapping[str, Any]) -> Iterator[Case]:
    """A case for each sentence of the gate, named after the limit it is about; the second of one name is `x (2)`."""
    seen = Counter[str]()
    for passed, sentences in ((False, gate["reasons"]), (True, gate["met"])):
        for words in sentences:
            name = _name(words)
            seen[name] += 1
            yield Case(name if seen[name] == 1 else f"{name} ({seen[name]})", passed, words)
    if not seen:
        yield Case("gate", True, "No limit was set.")


def _name(words: str) -> str:
    if words.startswith(NOTHING_REPAIRED):
        return "something was repaired"
    limits = re.findall(r"gate\.(\w+)", words)
    return f"gate.{limits[-1]}" if limits else "gate"


def _legal(words: str) -> str:
    return _ILLEGAL.sub(" ", words)
