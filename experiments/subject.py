"""What a run is about, as objects: the pair of models and the images of the three sides."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from dflare.classifiers import Classifier, ModelPair, ask
from dflare.errors import InputError
from dflare.seeds import Seeds
from dflare.triggers import Side
from experiments.devices import Placer
from experiments.opening import Source
from repair.opening import check_repairable
from repair.outputs.recipes import OFFERED

HANDED_IN = Path()
"""In the place of a compressed model's file: the model handed in, where that is none."""

MOST_OPEN = 12
"""Models kept open at once; the one opened first is closed for another."""


@dataclass(frozen=True)
class Subject:
    """The pair under test and the images to test it with."""

    name: str
    open_original: Callable[[], Classifier]
    open_compressed: Callable[[], Classifier]
    sources: dict[str, Source]  # of `WHICH`; empty for a pair in memory
    sides: dict[Side, Seeds]
    class_names: tuple[str, ...]
    opened: dict[tuple[str, str], Classifier] = field(default_factory=dict)
    told: dict[Side, Tensor] = field(default_factory=dict)
    placer: Placer = field(default_factory=Placer)
    preflight: dict[str, Any] | None = None  # what the first images showed, as plain JSON; None for the zoo's

    @property
    def files(self) -> dict[str, Path]:
        """The files of `WHICH`, where they are files."""
        return {which: source.file for which, source in self.sources.items() if source.file is not None}

    def pair(self, model: Path | None = None, purpose: str = "ask") -> ModelPair:
        """The original with a compressed model from a file, None for the one handed in.

        Models are opened once for each purpose, so that those that confirm are never those that were searched.
        """
        asked = "compressed" if model is None or model == HANDED_IN else model
        return ModelPair(self._open("original", purpose), self._open(asked, purpose))

    def _open(self, model: Path | str, purpose: str) -> Classifier:
        key = (str(model), purpose)
        if key not in self.opened:
            openers = {"original": self.open_original, "compressed": self.open_compressed}
            while len(self.opened) >= MOST_OPEN:
                self.opened.pop(next(iter(self.opened)))
            opened = openers[model]() if isinstance(model, str) else self.source(model).open()
            self.opened[key] = self.placer(opened, "original" if model == "original" else "compressed")
        return self.opened[key]

    def predicted(self, side: Side) -> Tensor:
        """What the original calls a side's images, (n,) int64; asked once."""
        if side not in self.told:
            self.told[side] = ask(self._open("original", "ask"), self.sides[side].images, "original").argmax(-1)
        return self.told[side]

    def source(self, model: Path | None = None) -> Source:
        """Where a compressed model comes from: a file that is shown images like the one handed in, None for that."""
        if "compressed" not in self.sources:
            return Source(str(model))
        handed_in = self.sources["compressed"]
        return handed_in if model is None or model == HANDED_IN else handed_in.at(model)

    def fingerprints(self) -> dict[str, str]:
        """A hash of each side's image ids, by the side's name."""
        return {
            side.name: hashlib.sha256(seeds.ids.numpy().tobytes()).hexdigest() for side, seeds in self.sides.items()
        }

    def compressed_file(self) -> Path:
        """The compressed model's file; raises `InputError` where there is none, or none that can be repaired."""
        if "compressed" not in self.files:
            source = self.sources.get("compressed")
            name = f"the compressed model {source.where}" if source is not None else self.name
            how = f"repair its answers by {OFFERED}" if source is not None else "it can only be searched"
            raise InputError(f"{name} is opened in memory and has no file to repair; {how}")
        check_repairable(self.files["compressed"])
        return self.files["compressed"]
