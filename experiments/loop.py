"""Search, repair, re-test, and again: each stage continues what is already in the run folder."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dflare.triggers import Side
from experiments.bit_controls import bit_controls, bits_only
from experiments.clustering import cluster_round
from experiments.files import read_json, write_atomic
from experiments.judging import agrees_on_clean
from experiments.localising import localise_round
from experiments.precision import check_precision, training_start
from experiments.records import record
from experiments.repairable import check_repair
from experiments.repaired import write_repaired
from experiments.repairing import model_name, read_training, train_model
from experiments.rollback import breaks_too_much
from experiments.run import Run, Standing, images_of
from experiments.searching import check_hope, inherit_search
from experiments.terminal import say
from experiments.trial import Model, share_of, to_line
from experiments.verifying import verify
from repair.proof import metrics

JUDGE_FIRST = (Side.judge, Side.validate, Side.train)


def search(run: Run) -> None:
    """Replay all earlier triggers on the model that enters the next round, then search all three sides anew."""
    check_precision(run)
    now = run.standing()
    folder = run.folder.round(now.number) / "triggers"
    if run.subject.sources:
        _replay(run, now)
    if now.searched is not None:
        inherit_search(now.searched, folder)
    model = run.handed_in(now.model)
    if now.number == 0 and run.other is not None:  # before all, so that a refused strategy leaves no folder behind
        label = f"round 0: search by {run.settings.search.other_strategy}, judge side"
        run.search(model, run.other, Side.judge, run.settings.seed, label, run.settings.search.other_strategy)
    for side in JUDGE_FIRST:
        # the judge side is searched with the same draws every time, the others with new ones each round
        seed = run.settings.seed if side is Side.judge else run.round_seed(now.number)
        label = f"round {now.number}: search, {side.name} side"
        run.search(model, folder, side, seed, label)
        if now.number == 0 and not run.settings.fast_dev:  # hardly trained models need not agree on anything
            check_hope(folder, side)
    verify_round(run, now.number)


def verify_round(run: Run, number: int) -> None:
    """Ask the triggers of a round again, in a fresh process and under each of `verify.runtimes` not asked yet."""
    model = run.handed_in(run.standing(number).model)
    folders = [run.folder.round(number) / "triggers", *([run.other] if number == 0 and run.other is not None else [])]
    for folder in folders:
        verify(run.subject, run.settings, model, folder, f"round {number}: verification")


def repair(run: Run) -> None:
    """Fine-tune the model that enters the next round on all train triggers found so far."""
    now = run.standing()
    run.need_triggers(now.number)
    check_repair(run.oracle, run.settings)
    check_precision(run)
    found = run.triggers(range(now.number, now.number + 1), Side.train)
    localise_round(run.settings.localise, run.oracle, now.model, found, run.folder.round(now.number))
    cluster_round(run.oracle, found, run.folder.round(now.number))
    start = training_start(run, now)
    say(f"round {now.number}: repair")
    learnt, watched = (run.triggers(range(now.number + 1), side) for side in (Side.train, Side.validate))
    train_model(
        run.settings,
        run.oracle,
        start,
        run.folder.round(now.number) / "model",
        (images_of(learnt), images_of(watched)),
        seed=run.round_seed(now.number),
        learning_rate=run.learning_rate(now.rolled_back),
        logs=run.folder.path / "tensorboard" / f"round-{now.number:02d}",
        found=learnt,
    )


def retest(run: Run) -> None:
    """Judge the repaired model and its controls, and append the round."""
    now = run.standing()
    run.need_model(now.number)
    folder, name = run.folder.round(now.number), f"round {now.number}"
    training = read_training(folder / "model")
    start, end = Model(now.model, folder / "triggers"), Model(run.model_file(now.number), folder / "after")
    run.search_judge(end, f"{name}: search against the repaired model")
    say(f"{name}: placebo, the same repair on clean images")
    rate = run.learning_rate(now.rolled_back)
    placebo = _control(run, training_start(run, now), folder / "placebo", now.number, training.steps, rate)
    run.search_judge(placebo, f"{name}: search against the placebo")
    more = bit_controls(run, now, partial(_control, run, number=now.number, steps=training.steps, rate=rate))
    noop = _control(run, now.model, folder / "noop", now.number, 0, rate)
    run.search_judge(noop, f"{name}: search against the no-op")
    say(f"{name}: re-test")
    began = time.monotonic()
    figures = record(run, start, end, {"placebo": placebo, "noop": noop, **more}, now.number, training.seconds)
    changes = _changes_on_validate(run, now.model, end.file)
    limit = run.settings.gate.max_drawdown
    seen = {"drawdown": changes.broken, "net": changes.net, "score": training.score, "limit": limit}
    figures["repair"]["validate"] = seen
    figures["repair"] |= {"steps": training.steps, "training_triggers": training.triggers}
    figures["search"]["replay"] = read_json(folder / "replay.json")
    rolled_back = breaks_too_much(changes.broken, changes.net, limit)
    seconds = training.seconds + time.monotonic() - began
    run.folder.add_round(to_line({"round": now.number, "rolled_back": rolled_back, "seconds": seconds, **figures}))


def headline(run: Run) -> None:
    """Write `headline.json`: the model as handed in against the final one, and the placebo of all steps."""
    rounds = run.folder.rounds()
    for number in range(len(rounds)):  # by other kernels, where they were named after the round
        verify_round(run, number)
    kept = [number for number, finished in enumerate(rounds) if not finished["rolled_back"]]
    first = run.folder.round(0)
    start = Model(run.handed_in_file, first / "triggers")
    end = Model(run.model_file(kept[-1]), run.folder.round(kept[-1]) / "after") if kept else start
    placebo = _summed(run, training_start(run, run.standing(0)), "placebo", kept)
    more: dict[str, Model | None] = {"bits": bits_only(run, run.standing(0), "headline")}
    if more["bits"] is not None:
        more["eight_bit"] = _summed(run, start.file, "eight-bit", kept)
    noop = Model(first / "noop" / model_name(run.settings.repair.recipe, start.file), first / "noop" / "after")
    seconds = sum(finished["cost"]["seconds"] for finished in rounds)
    figures = record(run, start, end, {"placebo": placebo, "noop": noop, **more}, max(kept, default=0), seconds)
    figures["repair"] |= {
        "steps": sum(rounds[number]["repair"]["steps"] for number in kept),
        "training_triggers": rounds[kept[-1]]["repair"]["training_triggers"] if kept else 0,
    }
    figures |= {"round": len(rounds), "rolled_back": not kept, "seconds": sum(r["seconds"] for r in rounds)}
    write_repaired(run, end, max(kept, default=0))
    write_atomic(run.folder.path / "headline.json", to_line(figures) + "\n")


def loop(run: Run) -> None:
    """Round after round until `loop.rounds` are done, then the headline.

    Raises `InputError` before any work for a compressed model that the recipe cannot repair.
    """
    check_repair(run.oracle, run.settings)
    while run.standing().number < run.settings.loop.rounds:
        search(run)
        repair(run)
        retest(run)
    headline(run)


def only_headline_is_missing(run: Run) -> bool:
    """Whether a process was stopped after judging the last round and before writing the headline."""
    done, path = len(run.folder.rounds()), run.folder.path / "headline.json"
    waiting = (run.folder.round(done) / "model" / "training.json").exists()
    return done > 0 and not waiting and not (path.exists() and read_json(path)["round"] == done)


def _replay(run: Run, now: Standing) -> None:
    """Write down how many triggers of earlier rounds, of all sides, still deviate on the model that enters this one."""
    path = run.folder.round(now.number) / "replay.json"
    if not path.exists():
        known = run.triggers(range(now.number), *Side)
        say(f"round {now.number}: replay of {len(known) if known else 0} known triggers")
        agrees = run.bench.agrees(Model(now.model, Path()), known)
        write_atomic(path, json.dumps(metrics.plain(share_of(~agrees, known))) + "\n")


def _control(
    run: Run, start: Path, folder: Path, number: int, steps: int, rate: float, same_names: bool = True
) -> Model:
    """A model trained like round `number`'s for so many steps, but on the triggers' clean seeds; none is a no-op.

    The same weights are free and each seed stands where its trigger stood, see `train_model`. Without `same_names`,
    for a file with other grids, the recipe's rule says again which are free.
    """
    found = run.triggers(range(number + 1), Side.train)
    clean = found.seed_images if found is not None else torch.zeros(0)
    seed, nothing = run.round_seed(number), torch.zeros(0)
    options: dict[str, Any] = {"seed": seed, "learning_rate": rate, "steps": steps, "found": found}
    options["free"] = read_training(run.folder.round(number) / "model").free or None if same_names else None
    return Model(train_model(run.settings, run.oracle, start, folder, (clean, nothing), **options), folder / "after")


def _summed(run: Run, start: Path, name: str, kept: list[int]) -> Model | None:
    """A control that takes the steps of all kept rounds one after the other, and is searched; None where none was."""
    rounds, model = run.folder.rounds(), None
    for number in kept:
        steps = read_training(run.folder.round(number) / "model").steps
        folder = run.folder.round(0) / name if number == 0 else run.folder.path / "headline" / f"{name}-{number:02d}"
        rate = run.learning_rate(sum(bool(r["rolled_back"]) for r in rounds[:number]))
        begin = model.file if model else start
        model = _control(run, begin, folder, number, steps, rate, same_names=name == "placebo")
    if model is not None:
        run.search_judge(model, f"headline: search against the {name}")
    return model


def _changes_on_validate(run: Run, before: Path, after: Path) -> metrics.PairedRates:
    agrees = [agrees_on_clean(run.oracle, model, Side.validate) for model in (before, after)]
    return metrics.paired_rates(*agrees)
