"""Judge one model against another: everything that DESIGN, section 5, wants to know of a repair or its controls."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dflare.shards import Endings, read_endings
from dflare.triggers import Side, TriggerSet
from experiments.config import Config
from experiments.judging import judge
from experiments.oracle import Oracle
from repair.proof import evidence, metrics
from repair.proof.evidence import Judgement
from repair.proof.intervals import Figure, Mask


@dataclass(frozen=True)
class Model:
    """A compressed model in a file, with the folder of the judge side's search against it."""

    file: Path
    search: Path


@dataclass(frozen=True)
class Bench:
    """What every model of a run is judged with."""

    oracle: Oracle
    settings: Config
    folder: Path  # of the run
    asked: dict[tuple[Path, bytes], Mask] = field(default_factory=dict)  # which triggers models were asked already

    def judgement(self, model: Model) -> Judgement:
        """What the model does on clean and probe images."""
        return judge(self.oracle, model.file, self.folder / "evidence")

    def endings(self, model: Model) -> Endings:
        """How the judge side's search against the model ended."""
        return read_endings(model.search).side(Side.judge)

    def agrees(self, model: Model, triggers: TriggerSet | None) -> Mask:
        """Whether the pair agrees on each trigger, asked one at a time, (n,) bool."""
        if triggers is None:
            return np.zeros(0, dtype=bool)
        key = (model.file, hashlib.blake2b(triggers.images.numpy().tobytes()).digest())
        if key not in self.asked:
            self.asked[key] = ~triggers.verify(self.oracle.subject.pair(model.file, "confirm")).numpy()
        return self.asked[key]

    def figures(
        self, start: Model, end: Model, held_out: Mapping[str, TriggerSet | None], trained: TriggerSet | None
    ) -> dict[str, Any]:
        """`search`, `repair` and `accuracy` of going from one model to another; `held_out` are trigger sets by key."""
        budget, seed = self.settings.search.max_queries, self.settings.seed
        before, after = self.judgement(start), self.judgement(end)
        searches = self.endings(start), self.endings(end)
        triggers = {key: share_of(self.agrees(end, found), found) for key, found in held_out.items()}
        return {
            "search": {
                "after": evidence.search_figures(searches[1], budget, seed),
                "queries_ratio": evidence.queries_ratio(*searches, budget, seed),
            },
            "repair": {
                "efficacy": share_of(self.agrees(end, trained), trained),
                **triggers,
                **evidence.change_figures(before, after, self._lengths(), self._groups()),
            },
            "accuracy": {
                "original": self._original_accuracy(),
                "before": metrics.share(before.correct),
                "after": metrics.share(after.correct),
            },
        }

    def cost(self, start: Model, end: Model, seconds: float) -> dict[str, Any]:
        """Bytes, milliseconds for one image (median), and how long the repair took."""
        before, after = self.judgement(start), self.judgement(end)
        never = np.zeros(len(before.milliseconds), dtype=bool)
        latency = [metrics.quantile(j.milliseconds, 0.5, never, self.settings.seed) for j in (before, after)]
        return {
            "bytes_before": before.bytes,
            "bytes_after": after.bytes,
            "payload_before": before.payload,
            "payload_after": after.payload,
            "latency_before": latency[0],
            "latency_after": latency[1],
            "seconds": seconds,
        }

    def paired(
        self, start: Model, end: Model, placebo: Model, held_out: Mapping[str, TriggerSet | None]
    ) -> dict[str, Any]:
        """`end` against `placebo`, both made from `start`, image by image, as `beats_placebo` takes it."""
        budget, seed = self.settings.search.max_queries, self.settings.seed
        ratio = evidence.queries_ratio(self.endings(placebo), self.endings(end), budget, seed)
        triggers = {key: (self.agrees(end, found), self.agrees(placebo, found)) for key, found in held_out.items()}
        judgements = self.judgement(end), self.judgement(placebo), self.judgement(start)
        return evidence.paired_with_placebo(*judgements, triggers=triggers, groups=self._groups(), ratio=ratio)

    def _original_accuracy(self) -> Figure:
        labels = self.oracle.subject.sides[Side.judge].labels
        if labels is None:
            return metrics.NOTHING
        return metrics.share((self.oracle.clean(Side.judge).argmax(-1) == labels).numpy())

    def _lengths(self) -> np.ndarray:
        return self.oracle.probe.lengths().numpy()

    def _groups(self) -> np.ndarray:
        probe = self.oracle.probe
        return (torch.arange(probe.count) % len(probe.ids)).numpy()


def share_of(mask: Mask, triggers: TriggerSet | None) -> Figure:
    """Share of true entries of `mask` (n,), one a trigger.

    Several rounds may find a trigger each from one seed: these resemble each other, which the interval allows for.
    """
    if triggers is None or len(triggers.seeds.unique()) == len(triggers):
        return metrics.share(mask)
    return metrics.share(mask, triggers.seeds.numpy())


def to_line(figures: Mapping[str, Any]) -> str:
    """Figures as one line of JSON."""
    return json.dumps(metrics.plain(figures))
