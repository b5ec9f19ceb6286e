"""The original's answers, asked once each: the targets of every repair and the measure of every model."""

from functools import cached_property

import torch
from torch import Tensor

from dflare.classifiers import Classifier, ask
from dflare.triggers import Side
from experiments.subject import Subject
from repair.data import Examples
from repair.proof.probe import ProbeSet


class Oracle:
    """What the original says of the fixed images of a run; computed when first needed."""

    def __init__(self, subject: Subject, probe_images: int) -> None:
        self.subject = subject
        judge = subject.sides[Side.judge]
        self.probe = ProbeSet(judge.images, judge.ids, probe_images)
        self._clean: dict[Side, Tensor] = {}

    @cached_property
    def original(self) -> Classifier:
        """The original, opened for these questions."""
        return self.subject.pair().original

    def clean(self, side: Side) -> Tensor:
        """Scores of all clean images of a side, (n, classes)."""
        if side not in self._clean:
            self._clean[side] = ask(self.original, self.subject.sides[side].images, "original")
        return self._clean[side]

    @cached_property
    def probe_scores(self) -> Tensor:
        """Scores of the probe images, (m, classes)."""
        return torch.cat([ask(self.original, images, "original") for images in self.probe.chunks()])

    def examples(self, images: Tensor) -> Examples:
        """Images with the original's probabilities."""
        if not len(images):
            return Examples(images, torch.zeros(0, 0))
        return Examples(images, ask(self.original, images, "original").softmax(-1))

    def clean_examples(self, side: Side) -> Examples:
        """All clean images of a side with the original's probabilities."""
        return Examples(self.subject.sides[side].images, self.clean(side).softmax(-1))
