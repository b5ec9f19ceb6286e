"""The command line. Model code is imported only once the settings are known to be right."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dflare.errors import InputError, OutOfTime
from experiments.config import Config
from experiments.settings import load_config, to_yaml

if TYPE_CHECKING:
    from experiments.run import Run

EPILOG = """\
settings:
  Give YAML files (a path, or the name of a shipped configuration such as mnist-lenet5) and key=value pairs, e.g.
    dflare loop mnist-lenet5 pair.name=mnist-lenet5-pruned loop.rounds=2
  Without any, the digits of scikit-learn and a pruned CNN are used. --print-config shows every key.

exit codes:
  0 the gate passed (or there is none to pass)   1 the gate failed
  2 bad input                                    130 interrupted, run the same command to continue
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code of `dflare`."""
    options = _parse(arguments)
    try:
        if options.verb == "report":
            return _report(Path(options.run_dir.removeprefix("run_dir=")))
        settings = load_config(options.settings)
        if options.print_config:
            print(to_yaml(settings), end="")
            return 0
        return _VERBS[options.verb](settings)
    except InputError as error:
        print(f"dflare: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"dflare: error: a file could not be read or written: {error.strerror or error}{where}", file=sys.stderr)
        return 2
    except OutOfTime as ending:
        print(f"dflare: {ending}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("dflare: interrupted; run the same command to continue", file=sys.stderr)
        return 130


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The parsed arguments; settings may stand before and after options, which argparse alone does not take."""
    parser = _parser()
    options, more = parser.parse_known_args(arguments)
    if more and (options.verb == "report" or any(argument.startswith("-") for argument in more)):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if more:
        options.settings += more
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dflare",
        description="Find where a compressed image classifier deviates from its original, repair it, prove it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    for name, text in (
        ("search", "find triggers against the compressed model"),
        ("repair", "fine-tune the compressed model on the triggers found; it stays compressed"),
        ("retest", "judge the repaired model against no-op and placebo, write the report"),
        ("loop", "search, repair and re-test, for as many rounds as asked"),
    ):
        verb = verbs.add_parser(name, help=text, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
        verb.add_argument("settings", nargs="*", metavar="config.yaml | key=value")
        verb.add_argument("--print-config", action="store_true", help="show the resolved settings and stop")
    report = verbs.add_parser("report", help="write report.json and report.md of a run folder again")
    report.add_argument("run_dir", metavar="run_dir")
    return parser


def _staged(stages: Callable[["Run"], int | None]) -> Callable[[Config], int]:
    """A verb that works in the run folder of its settings."""

    def verb(settings: Config) -> int:
        from experiments.process import prepare
        from experiments.run import Run
        from experiments.runfolder import open_run, write_environment
        from experiments.subject import make_subject

        prepare(settings)
        with open_run(settings) as folder:
            subject = make_subject(settings, progress=sys.stderr.isatty())
            write_environment(folder, subject.files, subject.fingerprints())
            return stages(Run(subject, settings, folder)) or 0

    return verb


@_staged
def _search(run: "Run") -> None:
    from experiments import loop, summaries

    loop.search(run)
    print(summaries.search_summary(run))


@_staged
def _repair(run: "Run") -> None:
    from experiments import loop, summaries

    loop.repair(run)
    print(summaries.repair_summary(run))


@_staged
def _retest(run: "Run") -> int:
    from experiments import loop

    if not loop.only_headline_is_missing(run):
        loop.retest(run)
    loop.headline(run)
    return _report(run.folder.path)


@_staged
def _loop(run: "Run") -> int:
    from experiments import loop

    loop.loop(run)
    return _report(run.folder.path)


_VERBS = {"search": _search, "repair": _repair, "retest": _retest, "loop": _loop}


def _report(folder: Path) -> int:
    from experiments.report import summary_text, write_report

    report = write_report(folder)
    print(summary_text(report))
    return 0 if report["gate"]["passed"] else 1
