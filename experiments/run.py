"""One run: a subject, its settings, its folder, and where it stands."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dflare.errors import InputError
from dflare.shards import read_endings
from dflare.triggers import Side, TriggerSet
from experiments.config import Config
from experiments.crew import ALONE, Crew
from experiments.oracle import Oracle
from experiments.repairing import model_name
from experiments.runfolder import RunFolder
from experiments.searching import search_side, side_seeds, triggers_of
from experiments.subject import HANDED_IN, Subject
from experiments.trial import Bench, Model


@dataclass(frozen=True)
class Standing:
    """Where a run stands: the round that is next and what the finished ones left."""

    number: int
    model: Path  # the compressed model that enters the round
    searched: Path | None  # folder with the judge side's search against it, where there is one
    rolled_back: int  # rounds so far that were


class Run:
    """What every stage of a run works with; all that lasts is in the run folder."""

    def __init__(self, subject: Subject, settings: Config, folder: RunFolder, crew: Crew = ALONE) -> None:
        self.subject, self.settings, self.folder, self.crew = subject, settings, folder, crew
        self.oracle = Oracle(subject, settings.probe.images)
        self.bench = Bench(self.oracle, settings, folder.path)

    def standing(self, done: int | None = None) -> Standing:
        """What comes next, from the rounds that are finished, or what came next when only `done` of them were."""
        rounds = self.folder.rounds()[:done]
        model, searched = self.handed_in_file, None
        for number, finished in enumerate(rounds):
            if finished["rolled_back"]:
                searched = self.folder.round(number) / "triggers"
            else:
                model, searched = self.model_file(number), self.folder.round(number) / "after"
        return Standing(len(rounds), model, searched, sum(bool(r["rolled_back"]) for r in rounds))

    def handed_in(self, model: Path) -> Path | None:
        """A model's file, None for a compressed model that is none: nothing but the one handed in is searched then."""
        return None if model == HANDED_IN else model

    def triggers(self, numbers: range, *sides: Side) -> TriggerSet | None:
        """The triggers that those rounds found on those sides; None where there are none."""
        return triggers_of([self.folder.round(number) / "triggers" for number in numbers], *sides)

    def search_judge(self, model: Model, label: str) -> None:
        """The fresh search: judge seeds, the same draws whatever the model."""
        self.search(model.file, model.search, Side.judge, self.settings.seed, label)

    def search(
        self, model: Path | None, folder: Path, side: Side, seed: int, label: str, strategy: str | None = None
    ) -> None:
        """Search one side against a compressed model, None for the one handed in, with all workers.

        `strategy` stands in for `search.strategy`.
        """
        search_side(self.subject, self.settings, model, folder, side, seed, label, self.crew, strategy)

    @property
    def other(self) -> Path | None:
        """Folder of the judge side's search by another strategy, against the model handed in; None without one."""
        wanted = self.settings.search.other_strategy is not None and "compressed" in self.subject.files
        return self.folder.round(0) / "triggers-other" if wanted else None

    def other_triggers(self) -> TriggerSet | None:
        """What that search found; None for nothing, and where there was no such search."""
        return triggers_of([self.other], Side.judge) if self.other is not None else None

    def model_file(self, number: int) -> Path:
        """The model that a round's repair made."""
        return self.folder.round(number) / "model" / model_name(self.settings.repair.recipe, self.handed_in_file)

    @property
    def handed_in_file(self) -> Path:
        """The compressed model's file as it was handed in; `HANDED_IN` where it is none."""
        return self.subject.files.get("compressed", HANDED_IN)

    def round_seed(self, number: int) -> int:
        """What a round draws and shuffles with; no two rounds of no two runs share it, `loop.rounds` being smaller."""
        return self.settings.seed * 10_007 + number

    def learning_rate(self, rolled_back: int) -> float:
        """A round after one that broke too much goes half as fast."""
        return self.settings.repair.learning_rate * 0.5**rolled_back

    def need_triggers(self, number: int) -> None:
        """Raise `InputError` unless the search of a round is complete."""
        needed = {self.folder.round(number) / "triggers": tuple(Side)}
        needed |= {self.other: (Side.judge,)} if self.other is not None else {}
        folder = self.folder.round(number) / "triggers"
        if not all(self._searched(*entry) for entry in needed.items()):
            raise InputError(
                f"expected round {number}'s triggers in {folder.parent}, found none or not all; "
                "run `dflare search` first"
            )

    def _searched(self, folder: Path, sides: Sequence[Side]) -> bool:
        done = read_endings(folder) if folder.exists() else None
        seeds = {side: len(side_seeds(self.subject, self.settings, side)) for side in sides}
        return done is not None and all(len(done.side(side)) >= count for side, count in seeds.items())

    def need_model(self, number: int) -> None:
        """Raise `InputError` unless the repair of a round is complete."""
        folder = self.folder.round(number)
        if not (folder / "model" / "training.json").exists():
            raise InputError(f"expected round {number}'s model in {folder}, found none; run `dflare repair` first")


def images_of(found: TriggerSet | None) -> torch.Tensor:
    """The triggers' images, none where there are no triggers."""
    return found.images if found is not None else torch.zeros(0)
