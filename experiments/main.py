"""The command line. Model code is imported only once the settings are known to be right."""

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dflare.errors import InputError, OutOfTime
from experiments.agreement_config import AgreementKeys, asks_for_agreement, load_agreement
from experiments.config import Config
from experiments.opening import ALLOW_CODE, check_allowed
from experiments.properties_config import load_properties
from experiments.robustness_config import asks_for_robustness, load_robustness
from experiments.settings import load_config, to_yaml
from experiments.workers import LostWorker, Place, find_place, leave, may_lead

if TYPE_CHECKING:
    from experiments.run import Run

EPILOG = """\
settings:
  Give YAML files (a path, or the name of a shipped configuration such as mnist-lenet5) and key=value pairs, e.g.
    dflare loop mnist-lenet5 pair.name=mnist-lenet5-pruned loop.rounds=2
  Without any, the digits of scikit-learn and a pruned CNN are used. --print-config shows every key; docs/ has more:
  your own models and images in models.md, strategies and mutations in search.md, recipes in repair.md, figures in
  report.md, several workers in scale.md.

exit codes:
  0 the gate passed (or there is none to pass)   1 the gate failed
  2 bad input                                    130 interrupted, run the same command to continue
"""


PROPERTIES = """\
  dflare properties model.onnx property.vnnlib
    draws inputs that violate the property, repairs the network, and states, with a confidence, how often the repaired
    network still violates it. The network is a chain of linear layers and activations (ReLU, leaky ReLU, tanh, ELU,
    sigmoid), the property boxes of inputs and linear constraints on outputs; several .vnnlib files must all hold.

  dflare properties agreement.seeds=10 agreement.radius=0.005 pair.original=a.onnx pair.compressed=b.onnx data.root=DIR
    proves or refutes, image by image, that the pair agrees around the first judge images (docs/verification.md).

  dflare properties robustness.images=50 robustness.radius=0.02 model=original.onnx data.name=mnist data.root=DIR
    looks for images around which an image classifier (.onnx, .pt2) misbehaves, repairs it there, and states how often
    it still does; with pair.original and pair.compressed the original says what is wanted (docs/robustness.md).

settings, as key=value or in YAML files (--print-config shows every key; docs/properties.md says what each is for):
  properties.method=hinge      or birdnn, birdnn-retrain, birdnn-finetune, care, plain, none (only the statement)
  properties.epsilon=1e-4      violation rate asked for, and properties.delta=1e-3 the chance that the statement errs
  properties.domain=all.vnnlib where else the network is used, so that it is kept there; or low..high of its inputs
  properties.output=min        which score decides, min or max
  properties.counterexamples=my.npz and properties.safe=mine.npz are samples of one's own (.npz, .npy, .h5)
  properties.verifier=highs    proves or refutes each property, and properties.export=DIR writes them for others
  run_dir=runs/model-property  the repaired network, report.md and report.json go there

exit codes:
  0 the bound asked for holds for the repaired network   1 it does not (the report says why)
  2 bad input                                            130 interrupted, run the same command to continue
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code of `dflare`. Of the workers of a run only the first says anything."""
    with nullcontext() if may_lead() else redirect_stderr(StringIO()):
        options = _parse(arguments)
    place: Place | None = None
    try:
        if options.verb == "report":
            return _report(Path(options.run_dir.removeprefix("run_dir=")))
        if options.verb == "properties":
            return _properties(options)
        if options.verb == "ablate":
            return _ablate(options)
        settings = load_config(options.settings)
        check_allowed(settings.pair, options.allow_code)
        place = find_place(settings.trainer)
        return _run(options, settings, place)
    except InputError as error:
        said, code = f"error: {' '.join(str(error).split())}", 2
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        said, code = f"error: a file could not be read or written: {error.strerror or error}{where}", 2
    except (OutOfTime, LostWorker) as ending:
        said, code = str(ending), 130
    except KeyboardInterrupt:
        said, code = "interrupted; run the same command to continue", 130
    if place is not None or may_lead():
        print(f"dflare: {said}", file=sys.stderr)
    return leave(code, place or Place())


def _run(options: argparse.Namespace, settings: Config, place: Place) -> int:
    """Lead the run, or help to search in it."""
    if options.print_config:
        if place.rank == 0:
            print(to_yaml(settings), end="")
        return 0
    verb, arguments = _VERBS[options.verb], [options.verb, *options.settings, *[ALLOW_CODE] * options.allow_code]
    if not verb.searches:
        return verb.run(settings, Place(), arguments) if place.rank == 0 else 0
    if place.rank > 0:
        from experiments.serving import serve

        serve(settings, place, arguments)
    return leave(verb.run(settings, place, arguments), place)


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
        (
            "estimate",
            "how often the models deviate on unlabelled images, with an interval, from a few hundred questions",
        ),
        ("ablate", "run every combination of a grid of settings with several seeds, and compare"),
    ):
        verb = verbs.add_parser(name, help=text, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
        verb.add_argument("settings", nargs="*", metavar="config.yaml | key=value")
        verb.add_argument("--print-config", action="store_true", help="show the resolved settings and stop")
        verb.add_argument(
            ALLOW_CODE, action="store_true", help="run programs: a pair's module:function or TorchScript file"
        )
    what = "repair a small network (.onnx) so that it keeps a property (.vnnlib), and state how sure that is"
    verb = verbs.add_parser(
        "properties", help=what, epilog=PROPERTIES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verb.add_argument("settings", nargs="*", metavar="model.onnx | property.vnnlib | config.yaml | key=value")
    verb.add_argument("--print-config", action="store_true", help="show the resolved settings and stop")
    report = verbs.add_parser("report", help="write report.html, .md, .json and junit.xml of a run folder again")
    report.add_argument("run_dir", metavar="run_dir")
    return parser


class Verb(NamedTuple):
    """What the leader of a run does."""

    run: Callable[[Config, Place, Sequence[str]], int]  # with the arguments for the workers that it starts
    searches: bool  # with all workers


def _staged(stages: Callable[["Run"], int | None]) -> Callable[[Config, Place, Sequence[str]], int]:
    """A verb that works in the run folder of its settings."""

    def verb(settings: Config, place: Place, arguments: Sequence[str]) -> int:
        from experiments.crew import joined
        from experiments.devices import describe
        from experiments.making import make_subject
        from experiments.process import prepare
        from experiments.run import Run
        from experiments.runfolder import open_run, write_environment
        from repair.outputs.recipes import recipe_parts

        prepare(settings, place.here)
        with joined(place, arguments) as crew, open_run(settings) as folder:
            subject = make_subject(settings, sys.stderr.isatty(), ALLOW_CODE in arguments, place.rank % place.here)
            more = {
                "device": describe(subject.placer.device),
                "preflight": subject.preflight,
                "class_names": list(subject.class_names),
                "recipe": recipe_parts(settings.repair.recipe),
            }
            write_environment(folder, subject.sources, subject.fingerprints(), more)
            return stages(Run(subject, settings, folder, crew)) or 0

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
def _estimate(run: "Run") -> None:
    from experiments.estimating import estimate_run

    print(estimate_run(run))


@_staged
def _loop(run: "Run") -> int:
    from experiments import loop

    loop.loop(run)
    return _report(run.folder.path)


_VERBS = {
    "search": Verb(_search, searches=True),
    "repair": Verb(_repair, searches=False),
    "retest": Verb(_retest, searches=True),
    "loop": Verb(_loop, searches=True),
    "estimate": Verb(_estimate, searches=False),
}


def _properties(options: argparse.Namespace) -> int:
    if asks_for_agreement(options.settings):
        return _agreement(options)
    if asks_for_robustness(options.settings):
        return _robustness(options)
    settings = load_properties(options.settings)
    if options.print_config:
        print(to_yaml(settings), end="")
        return 0
    from experiments.process import prepare

    prepare(Config(threads=settings.threads))
    from experiments.properties import properties

    return properties(settings)


def _agreement(options: argparse.Namespace) -> int:
    asked, settings = load_agreement(options.settings)
    if options.print_config:
        print(to_yaml(AgreementKeys(asked)) + to_yaml(settings), end="")
        return 0
    from experiments.process import prepare

    prepare(settings)
    from experiments.agreement import agreement

    return agreement(asked, settings)


def _robustness(options: argparse.Namespace) -> int:
    settings = load_robustness(options.settings)
    if options.print_config:
        print(to_yaml(settings), end="")
        return 0
    from experiments.process import prepare

    prepare(Config(threads=settings.threads))
    from experiments.robustness import robustness

    return robustness(settings)


def _ablate(options: argparse.Namespace) -> int:
    from experiments.ablating import ablate, load_ablation

    settings = load_ablation(options.settings)
    if options.print_config:
        print(to_yaml(settings), end="")
        return 0
    print(ablate(settings, options.allow_code))
    return 0


def _report(folder: Path) -> int:
    from experiments import properties_report, properties_text, robustness_report, robustness_text

    if robustness_report.is_robustness(folder):
        report = robustness_report.write_report(folder)
        print(robustness_text.summary_text(report))
        return 0 if report["gate"]["passed"] else 1
    if properties_report.is_properties(folder):
        report = properties_report.write_report(folder)
        print(properties_text.summary_text(report))
        return 0 if report["gate"]["passed"] else 1
    from experiments.report import summary_text, write_report

    report = write_report(folder)
    print(summary_text(report))
    return 0 if report["gate"]["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
