"""The command line. Model code is imported only once the settings are known to be right."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dflare.errors import InputError
from experiments.config import Config
from experiments.settings import load_config, to_yaml

EPILOG = """\
settings:
  Give YAML files (a path, or the name of a shipped configuration such as mnist-lenet5) and key=value pairs, e.g.
    dflare loop mnist-lenet5 pair.name=mnist-lenet5-pruned loop.rounds=2
  Without any, the digits of scikit-learn and a distilled CNN are used. --print-config shows every key.

exit codes:
  0 the gate passed (or there is none to pass)   1 the gate failed
  2 bad input                                    130 interrupted, run the same command to continue
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code of `dflare`."""
    options = _parse(arguments)
    try:
        if options.verb == "report":
            return _report(Path(options.run_dir))
        settings = load_config(options.settings)
        if options.print_config:
            print(to_yaml(settings), end="")
            return 0
        return _VERBS[options.verb](settings)
    except InputError as error:
        print(f"dflare: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except TimeoutError as error:
        print(f"dflare: {error}", file=sys.stderr)
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


def _staged(stages: Callable[..., int | None]) -> Callable[[Config], int]:
    """A verb that works in the run folder of its settings."""

    def verb(settings: Config) -> int:
        from experiments.loop import Run
        from experiments.process import prepare
        from experiments.runfolder import open_run, write_environment
        from experiments.subject import make_subject

        prepare(settings)
        with open_run(settings) as folder:
            subject = make_subject(settings, progress=sys.stderr.isatty())
            write_environment(folder, subject.files, subject.fingerprints())
            return stages(Run(subject, settings, folder)) or 0

    return verb


@_staged
def _search(run) -> None:  # type: ignore[no-untyped-def]
    run.search()
    print(run.search_summary())


@_staged
def _repair(run) -> None:  # type: ignore[no-untyped-def]
    run.repair()
    print(run.repair_summary())


@_staged
def _retest(run) -> int:  # type: ignore[no-untyped-def]
    if not run.only_headline_is_missing():
        run.retest()
    run.headline()
    return _report(run.folder.path)


@_staged
def _loop(run) -> int:  # type: ignore[no-untyped-def]
    run.loop()
    return _report(run.folder.path)


_VERBS = {"search": _search, "repair": _repair, "retest": _retest, "loop": _loop}


def _report(folder: Path) -> int:
    from experiments.report import summary_text, write_report

    report = write_report(folder)
    print(summary_text(report))
    return 0 if report["gate"]["passed"] else 1
