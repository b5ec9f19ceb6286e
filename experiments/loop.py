"""Search, repair, re-test: the stages of a run, and the loop over them."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dflare.errors import InputError
from dflare.shards import read_endings
from dflare.triggers import Side, TriggerSet
from experiments.config import Config
from experiments.files import read_json, write_atomic
from experiments.judging import agrees_on_clean
from experiments.oracle import Oracle
from experiments.runfolder import RunFolder
from experiments.stages import (
    check_hope,
    inherit_search,
    read_training,
    say,
    search_side,
    side_seeds,
    train_model,
    triggers_of,
)
from experiments.subject import Subject
from experiments.trial import Bench, Model, to_line
from repair import evidence, metrics

JUDGE_ORDER = (Side.judge, Side.validate, Side.train)


@dataclass(frozen=True)
class Standing:
    """Where a run stands: the round that is next and what the finished ones left."""

    number: int
    model: Path  # the compressed model that enters the round
    searched: Path | None  # folder with the judge side's search against it, where there is one
    rolled_back: int  # rounds so far that were


class Run:
    """One run: a subject, its settings and its folder. Every method continues what is already there."""

    def __init__(self, subject: Subject, settings: Config, folder: RunFolder) -> None:
        self.subject, self.settings, self.folder = subject, settings, folder
        self.oracle = Oracle(subject, settings.probe.images)
        self.bench = Bench(self.oracle, settings, folder.path)

    def standing(self) -> Standing:
        """What comes next, from the rounds that are finished."""
        rounds = self.folder.rounds()
        model, searched = self.subject.files.get("compressed", Path()), None
        for number, finished in enumerate(rounds):
            if finished["rolled_back"]:
                searched = self.folder.round(number) / "triggers"
            else:
                model, searched = self._model(number), self.folder.round(number) / "after"
        return Standing(len(rounds), model, searched, sum(bool(r["rolled_back"]) for r in rounds))

    def search(self) -> None:
        """Find triggers against the model that enters the next round, on all three sides."""
        now = self.standing()
        folder = self.folder.round(now.number) / "triggers"
        if now.searched is not None:
            inherit_search(now.searched, folder)
        model = now.model if self.subject.files else None
        for side in JUDGE_ORDER:
            # the judge side is searched with the same draws every time, the others with new ones each round
            seed = self.settings.seed + (0 if side is Side.judge else now.number)
            label = f"round {now.number}: search, {side.name} side"
            search_side(self.subject, self.settings, model, folder, side, seed, label)
            if now.number == 0:
                check_hope(folder, side)

    def search_summary(self) -> str:
        """What the search of the next round's model found, a line a side."""
        folder, budget = self.folder.round(self.standing().number) / "triggers", self.settings.search.max_queries
        endings, lines = read_endings(folder), [f"triggers: {folder}"]
        for side in Side:
            figures = metrics.plain(evidence.search_figures(endings.side(side), budget, self.settings.seed))
            mean = figures["queries_per_trigger"]["mean"]["value"] or 0.0
            lines.append(
                f"{side.name + ':':10}{figures['found']} found of {figures['seeds']} seeds, "
                f"{figures['already']} deviated already, {figures['censored']} unfound, {mean:.1f} queries a trigger"
            )
        return "\n".join(lines)

    def repair_summary(self) -> str:
        """Where the repaired model of the next round lies and what it took."""
        folder = self.folder.round(self.standing().number) / "model"
        training = read_training(folder)
        return (
            f"model: {folder}/model{self.subject.compressed_file().suffix}\n"
            f"{training.steps} steps on {training.triggers} triggers, {training.seconds:.0f} s"
        )

    def repair(self) -> None:
        """Fine-tune the model that enters the next round on all train triggers found so far."""
        now = self.standing()
        self._need(now.number, "triggers", "search")
        self.subject.compressed_file()
        say(f"round {now.number}: repair")
        folder = self.folder.round(now.number)
        learn, watch = (self._images(now.number, side) for side in (Side.train, Side.validate))
        train_model(
            self.settings,
            self.oracle,
            now.model,
            folder / "model",
            (learn, watch),
            seed=self._seed(now.number),
            learning_rate=self._rate(now.rolled_back),
            logs=self.folder.path / "tensorboard" / f"round-{now.number:02d}",
        )

    def retest(self) -> dict[str, Any]:
        """Judge the repaired model and its controls, append the round, and write the headline."""
        now = self.standing()
        self._need(now.number, "model", "repair")
        folder = self.folder.round(now.number)
        training = read_training(folder / "model")
        start = Model(now.model, folder / "triggers")
        end = Model(self._model(now.number), folder / "after")
        self._search_again(end, f"round {now.number}: search against the repaired model")
        placebo = self._placebo(now, folder / "placebo", training.steps)
        noop = self._noop(now, folder / "noop")
        say(f"round {now.number}: re-test")
        began = time.monotonic()
        record = {"round": now.number, **self._record(start, end, placebo, noop, now.number, training.seconds)}
        broken = self._broken_on_validate(now.model, end.file)
        limit = self.settings.gate.max_drawdown
        record["rolled_back"] = limit is not None and (broken.value or 0) > limit
        record["repair"]["validate"] = {"drawdown": broken, "score": training.score}
        record["repair"] |= {"steps": training.steps, "training_triggers": training.triggers}
        record["seconds"] = training.seconds + time.monotonic() - began
        self.folder.add_round(to_line(record))
        return record

    def only_headline_is_missing(self) -> bool:
        """Whether a process was stopped after judging the last round and before writing the headline."""
        done, path = len(self.folder.rounds()), self.folder.path / "headline.json"
        waiting = (self.folder.round(done) / "model" / "training.json").exists()
        return done > 0 and not waiting and not (path.exists() and read_json(path)["round"] == done)

    def headline(self) -> None:
        """Write `headline.json`: the model as handed in against the final one, and the placebo of all steps."""
        rounds = self.folder.rounds()
        kept = [number for number, finished in enumerate(rounds) if not finished["rolled_back"]]
        first = self.folder.round(0)
        start = Model(self.subject.compressed_file(), first / "triggers")
        end = Model(self._model(kept[-1]), self.folder.round(kept[-1]) / "after") if kept else start
        placebo = start
        for number in kept:
            steps = read_training(self.folder.round(number) / "model").steps
            same = number == 0
            folder = first / "placebo" if same else self.folder.path / "headline" / f"placebo-{number:02d}"
            rate = self._rate(sum(bool(r["rolled_back"]) for r in rounds[:number]))
            placebo = self._control(placebo.file, folder, number, steps, rate)
        if kept:
            self._search_again(placebo, "headline: search against the placebo")
        seconds = sum(finished["cost"]["seconds"] for finished in rounds)
        noop = Model(first / "noop" / f"model{start.file.suffix}", first / "noop" / "after")
        record = self._record(start, end, placebo, noop, max(kept, default=0), seconds)
        record["repair"] |= {
            "steps": sum(rounds[number]["repair"]["steps"] for number in kept),
            "training_triggers": rounds[kept[-1]]["repair"]["training_triggers"] if kept else 0,
        }
        record |= {"round": len(rounds), "rolled_back": not kept, "seconds": sum(r["seconds"] for r in rounds)}
        write_atomic(self.folder.path / "headline.json", to_line(record) + "\n")

    def loop(self) -> None:
        """Round after round until `loop.rounds` are done."""
        while self.standing().number < self.settings.loop.rounds:
            self.search()
            self.repair()
            self.retest()
        self.headline()

    def _record(
        self, start: Model, end: Model, placebo: Model, noop: Model, number: int, seconds: float
    ) -> dict[str, Any]:
        """The figures of a round or of the whole: from `start` to `end`, with both controls beside."""
        first, new = self._triggers([0], Side.judge), self._triggers([number], Side.judge)
        earlier = self._triggers(list(range(number)), Side.judge) if number else None
        held_out = {"generalization": first, "generalization_new": new, "earlier": earlier}
        trained = self._triggers(list(range(number + 1)), Side.train)
        figures, controls = self.bench.figures(start, end, held_out, trained), {}
        for name, model in (("placebo", placebo), ("noop", noop)):
            controls[name] = self.bench.figures(start, model, held_out, trained)
        beats, words = self.bench.verdict(start, end, placebo, first, (figures, controls["placebo"]))
        budget, seed = self.settings.search.max_queries, self.settings.seed
        endings = read_endings(start.search)
        figures["search"] |= {
            name: evidence.search_figures(endings.side(side), budget, seed)
            for name, side in (("before", Side.judge), ("train", Side.train), ("validate", Side.validate))
        }
        cost = self.bench.cost(start, end, seconds)
        return {**figures, "cost": cost, **controls, "beats_placebo": beats, "beats_placebo_words": words}

    def _placebo(self, now: Standing, folder: Path, steps: int) -> Model:
        say(f"round {now.number}: placebo, the same repair on clean images")
        model = self._control(now.model, folder, now.number, steps, self._rate(now.rolled_back))
        self._search_again(model, f"round {now.number}: search against the placebo")
        return model

    def _noop(self, now: Standing, folder: Path) -> Model:
        """The model read and written without any training: what the way through the formats alone does."""
        model = self._control(now.model, folder, now.number, 0, self._rate(now.rolled_back))
        self._search_again(model, f"round {now.number}: search against the no-op")
        return model

    def _control(self, start: Path, folder: Path, number: int, steps: int, rate: float) -> Model:
        """A model trained like round `number`'s for so many steps, but on the triggers' clean seeds."""
        found = self._triggers(list(range(number + 1)), Side.train)
        clean = found.seed_images if found is not None else torch.zeros(0)
        images = (clean, torch.zeros(0))
        options = {"seed": self._seed(number), "learning_rate": rate, "steps": steps}
        file = train_model(self.settings, self.oracle, start, folder, images, **options)  # type: ignore[arg-type]
        return Model(file, folder / "after")

    def _search_again(self, model: Model, label: str) -> None:
        search_side(self.subject, self.settings, model.file, model.search, Side.judge, self.settings.seed, label)

    def _broken_on_validate(self, before: Path, after: Path) -> metrics.Figure:
        agrees = [agrees_on_clean(self.oracle, model, Side.validate) for model in (before, after)]
        return metrics.paired_rates(*agrees).broken

    def _triggers(self, numbers: list[int], side: Side) -> TriggerSet | None:
        return triggers_of([self.folder.round(number) / "triggers" for number in numbers], side)

    def _images(self, number: int, side: Side) -> torch.Tensor:
        found = self._triggers(list(range(number + 1)), side)
        return found.images if found is not None else torch.zeros(0)

    def _model(self, number: int) -> Path:
        return self.folder.round(number) / "model" / f"model{self.subject.compressed_file().suffix}"

    def _seed(self, number: int) -> int:
        """A training's seed; every round shuffles in its own order."""
        return self.settings.seed * 10_007 + number

    def _rate(self, rolled_back: int) -> float:
        """A round after one that broke too much goes half as fast."""
        return self.settings.repair.learning_rate * 0.5**rolled_back

    def _need(self, number: int, part: str, verb: str) -> None:
        folder = self.folder.round(number)
        missing = not (folder / part).exists() or (part == "model" and not (folder / part / "training.json").exists())
        if part == "triggers" and not missing:
            done = read_endings(folder / part)
            missing = any(len(done.side(s)) < len(side_seeds(self.subject, self.settings, s)) for s in Side)
        if missing:
            raise InputError(
                f"expected round {number}'s {part} in {folder}, found none or not all; run `dflare {verb}` first"
            )
