"""junit.xml and the summary of a GitHub job, for the run folder that test_report makes."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from experiments.gate import NOTHING_REPAIRED
from experiments.report import write_report
from experiments.report_junit import SUMMARY, junit
from tests.experiments.test_report import run_dir  # noqa: F401


def report(reasons: list[str], met: list[str]) -> dict[str, Any]:
    return {
        "name": "run",
        "created": "2026",
        "headline": None,
        "gate": {"passed": not reasons, "reasons": reasons, "met": met},
    }


def test_each_limit_is_a_test_case_of_the_written_file(run_dir: Path) -> None:  # noqa: F811
    write_report(run_dir)
    suite = ElementTree.parse(run_dir / "junit.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("2", "0")
    assert [case.get("name") for case in suite.iter("testcase")] == ["gate.max_probe_rate", "gate.max_drawdown"]
    assert "beats its placebo" in str(suite.findtext("system-out"))


def test_a_limit_that_does_not_hold_fails_with_its_reason() -> None:
    reasons = ["5 % deviate; gate.max_probe_rate = 1 % is not met.", "Class <3>; gate.max_probe_rate = 2 % is not met."]
    suite = ElementTree.fromstring(junit(report(reasons, ["fine; gate.max_bytes = 9 is met."])))[0]
    names = [case.get("name") for case in suite]
    assert names == ["gate.max_probe_rate", "gate.max_probe_rate (2)", "gate.max_bytes"]
    failures = [case.find("failure") for case in suite]
    assert [None if entry is None else entry.get("message") for entry in failures] == [*reasons, None]
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")


@pytest.mark.parametrize(
    ("reasons", "name", "failed"),
    [
        ([], "gate", 0),
        (["The run has no headline yet, so no limit can be checked: continue it."], "gate", 1),
        ([f"{NOTHING_REPAIRED}; set gate.max_probe_rate to release it."], "something was repaired", 1),
        (["a\x1b[31m\x00b; gate.max_bytes = 1 is not met."], "gate.max_bytes", 1),
    ],
)
def test_there_is_always_a_case_and_the_file_is_xml(reasons: list[str], name: str, failed: int) -> None:
    suite = ElementTree.fromstring(junit(report(reasons, [])))[0]
    assert [case.get("name") for case in suite] == [name]
    assert suite.get("failures") == str(failed)


def test_the_job_summary_is_appended_where_github_asks_for_it(
    run_dir: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "summary.md"
    path.write_text("# before\n")
    monkeypatch.setenv(SUMMARY, str(path))
    write_report(run_dir)
    written = path.read_text(encoding="utf-8")
    assert written.startswith("# before\n# dflare: mnist-")
    assert "**The release gate passed.**" in written
    assert "| generalization: held-out triggers repaired |" in written
    assert "](" not in written  # a job's page has no pictures of the folder
    monkeypatch.delenv(SUMMARY)
    write_report(run_dir)
    assert path.read_text(encoding="utf-8") == written
