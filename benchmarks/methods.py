"""Every strategy of repair on the MNIST pairs and on ACAS Xu: ours, the plain ones, and the methods of the literature.

    python benchmarks/methods.py --json rows.json    two networks, three files each, every strategy (an hour),
                                                     and ACAS Xu by all methods (its rows go to rows-acasxu.json)
    python benchmarks/methods.py --quick             two strategies on LeNet-5's distilled student (under a minute)
    python benchmarks/methods.py --pairs mnist_lenet-5-distilled-pt2 --strategies arachne,birdnn
    python benchmarks/methods.py --jobs 2            two rows at a time, each on one thread

With --quick, --pairs or --strategies only MNIST is run; `python benchmarks/acasxu.py --methods all` is the other half.

A row is one small `dflare loop`, with the product's own placebo, no-op and judging (DESIGN, section 5). Nothing is
rolled back, so that what a method breaks is to be seen. Models and images are found under $DFLARE_BENCH (default: the
folder `shared` beside the project). Rows that the JSON file holds are not run again, and a row that was stopped goes on
where its run folder (below `--work`) stands. All strategies of a pair search alike and are judged on the same images;
steps and learning rates are fixed beforehand (`STRATEGIES`), not chosen on what is reported.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kept_rows
from dflare.errors import InputError
from experiments.environment import environment
from experiments.files import write_atomic
from repair_rows import DISTILLED, INT8, KINDS, PRUNED, Row, figures, measure
from repair_table import accuracy, drawdown, generalization, other, probe, queries

MODELS = ("mnist_lenet-5", "mnist_simplecnn")
FILES = ("distilled.pt2", "pruned.pt2", "int8.pt2")
SEARCHES = ("arachne", "neurecover", "care", "birdnn-finetune")
IDENTITY = ("pair", "kind", "seed", "settings")

COMMON = {
    "search.strategy": "boundary",
    "search.seeds": "600",
    "search.validate_seeds": "200",
    "search.judge_seeds": "300",
    "probe.images": "5000",
    "gate.max_drawdown": "null",
    "localise.method": "null",
    "verify.runtimes": "[]",
    "repair.steps": "500",
    "repair.batch_size": "64",
}

OURS = {
    DISTILLED: {"repair.recipe": "lead", "repair.learning_rate": "0.01"},
    PRUNED: {"repair.recipe": "logits", "repair.learning_rate": "0.002"},
    INT8: {"repair.recipe": "int8"},
}
"""Kind of file -> the gradient recipe that docs/repair.md names for it."""

STRATEGIES: Mapping[str, Mapping[str, str]] = {
    "gradient": {},  # `OURS`
    "fine-tuning": {"repair.recipe": "labels"},
    "trigger-only": {"repair.recipe": "labels", "repair.replay": "0"},
    **{name: {"repair.recipe": name, "repair.steps": "30"} for name in SEARCHES},
    "birdnn-retrain": {"repair.recipe": "birdnn-retrain"},
    "birdnn": {"repair.recipe": "birdnn"},
    "output-mlp": {"repair.recipe": "output-mlp"},
}
"""Strategy -> settings; `no-op` stands in every row."""

QUICK = {"search.seeds": "100", "search.validate_seeds": "50", "search.judge_seeds": "50", "probe.images": "500"}
QUICK |= {"search.other_strategy": "null", "repair.validate_every": "50"}

QUICK_STEPS = {"gradient": "100", "birdnn-finetune": "5"}
"""The strategies of --quick."""

HEADINGS = (
    *("strategy", "generalization %", "placebo's", "other strategy's %", "probe after/before", "queries after/before"),
    *("broken %", "fixed %", "accuracy", "repair s"),
)


@dataclass(frozen=True)
class MethodRow(Row):
    """A pair and a strategy (`kind`)."""

    @property
    def pair(self) -> str:
        """Its name in tables."""
        return f"{self.model}-{self.file.replace('.', '-')}-{self.kind}"


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table a pair, and return the exit code: 0, or 2 for bad input."""
    options = _parser().parse_args(arguments)
    try:
        done = measured(options, wanted(options))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(lines(done)), flush=True)
    return 0 if options.quick or options.pairs or options.strategies else _acasxu(options.json)


def _acasxu(json_file: Path | None) -> int:
    """The other half of the comparison, with rows beside those of the first; its exit code."""
    import acasxu

    beside = [f"--json={json_file.with_stem(json_file.stem + '-acasxu')}"] if json_file else []
    print("\nACAS Xu\n", flush=True)
    return acasxu.main(["--methods", "all", *beside])


def wanted(options: argparse.Namespace) -> list[MethodRow]:
    """The rows asked for."""
    if options.quick:
        steps = {name: {**STRATEGIES[name], **QUICK, "repair.steps": count} for name, count in QUICK_STEPS.items()}
        return [row_of(MODELS[0], FILES[0], name, 0, own) for name, own in steps.items()]
    pairs = {f"{model}-{file.replace('.', '-')}": (model, file) for model in MODELS for file in FILES}
    asked = options.pairs.split(",") if options.pairs else list(pairs)
    strategies = options.strategies.split(",") if options.strategies else list(STRATEGIES)
    for flag, given, there in (("--pairs", asked, pairs), ("--strategies", strategies, STRATEGIES)):
        if unknown := [name for name in given if name not in there]:
            raise InputError(f"{flag} must be some of {', '.join(there)}, got {unknown[0]!r}")
    return [
        row_of(*pairs[pair], name, seed, STRATEGIES[name])
        for seed in range(options.seeds)
        for pair in asked
        for name in strategies
    ]


def row_of(model: str, file: str, strategy: str, seed: int, own: Mapping[str, str]) -> MethodRow:
    """A strategy on a file of `FILES`."""
    ours = OURS[KINDS[file]] if strategy == "gradient" else {}
    return MethodRow(model, file, strategy, seed, {**COMMON, **ours, **own})


def measured(options: argparse.Namespace, rows: Sequence[MethodRow]) -> list[dict[str, Any]]:
    """The figures of all rows; those that the JSON file holds are taken from there, new ones added to it at once."""
    known = kept_rows.read(options.json)
    done = [each for row in rows if (each := kept_rows.find(known, row.identity)) is not None]
    todo = [row for row in rows if kept_rows.find(known, row.identity) is None]
    with ThreadPoolExecutor(options.jobs) as pool:
        running = [pool.submit(run, row, options.work.resolve()) for row in todo]
        for finished in as_completed(running):
            done.append(finished.result())
            print(f"{done[-1]['pair']}, seed {done[-1]['seed']}: {done[-1]['words']}", file=sys.stderr, flush=True)
            if options.json:
                content = {"environment": environment({}), "rows": [*done, *kept_rows.others(known, done, IDENTITY)]}
                write_atomic(options.json, json.dumps(content, indent=1) + "\n")
    order = {(row.pair, row.seed): place for place, row in enumerate(rows)}
    return sorted(done, key=lambda row: order[row["pair"], row["seed"]])


def run(row: MethodRow, folder: Path) -> dict[str, Any]:
    """Run the loop of a row, or what is missing of it; its figures, with those of the no-op."""
    found = measure(row, folder)
    report = json.loads((folder / f"{row.pair}-{row.seed}" / "report.json").read_text(encoding="utf-8"))
    headline = report["headline"]
    noop = figures({**headline, **headline["noop"]})["repair"]
    return {**found, "noop": noop, "model": row.model, "file": row.file}


def lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table in Markdown for every pair and seed: the no-op, then every strategy."""
    found: list[str] = []
    for model, file, seed in dict.fromkeys((row["model"], row["file"], row["seed"]) for row in rows):
        some = [row for row in rows if (row["model"], row["file"], row["seed"]) == (model, file, seed)]
        found += ["", f"{model}, {file}, seed {seed}", "", f"| {' | '.join(HEADINGS)} |"]
        found.append(f"| :-- |{' --: |' * (len(HEADINGS) - 1)}")
        nothing = {"repair": some[0]["noop"], "placebo": None}
        found += [line("no-op", nothing, None)]
        found += [line(row["kind"], row, row["cost"]["seconds"]) for row in some]
    return found


def line(name: str, row: Mapping[str, Any], seconds: float | None) -> str:
    """A row of a table, in percent and ratios; a dash for what was not measured."""
    placebo = generalization({"repair": row["placebo"]}) if row["placebo"] else None
    fixed = row["repair"]["fixed"]
    cells = [
        *(_number(value, 1) for value in (generalization(row), placebo, other(row))),
        *(_number(value, 2) for value in (probe(row), queries(row), drawdown(row))),
        *(_number(value, 2) for value in (100 * fixed["value"] if fixed else None, accuracy(row))),
        _number(seconds, 1),
    ]
    return f"| `{name}` | {' | '.join(cells)} |"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare every strategy of repair on the MNIST pairs.")
    parser.add_argument("--quick", action="store_true", help="two strategies on one pair, small numbers")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the rows; those it holds are not repeated"
    )
    parser.add_argument("--pairs", metavar="A,B", help="only these, such as mnist_lenet-5-distilled-pt2")
    parser.add_argument("--strategies", metavar="A,B", help=f"some of {', '.join(STRATEGIES)}")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="of every row (default 1)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="rows at a time, each on one thread")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/benchmark-methods"), metavar="DIR", help="of run folders"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
