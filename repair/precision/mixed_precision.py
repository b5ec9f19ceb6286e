"""Mixed precision repair: which activations of an int8 model deserve 16 bits, and what that costs."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from dflare.classifiers import Classifier, Outputs, ask
from dflare.errors import InputError
from dflare.models.interface import Interface
from dflare.models.opening import open_classifier
from repair.precision.choice import Choice, Names, greedy
from repair.precision.formats import Format, format_of
from repair.precision.latency import latencies
from repair.precision.plan import Bits
from repair.proof.intervals import Figure, Groups, Mask, share


@dataclass(frozen=True)
class Asked:
    """Images and what the original says of them, asked once."""

    images: Tensor  # (n, c, h, w) uint8
    original: Tensor  # (n, classes) scores

    @classmethod
    def of(cls, original: Classifier, images: Tensor) -> "Asked":
        return cls(images, ask(original, images, "original") if len(images) else torch.zeros(0, 2))

    def outputs(self, compressed: Classifier) -> Outputs:
        """What both say; only the compressed model is asked."""
        if not len(self.images):
            return Outputs(self.original, self.original)
        return Outputs(self.original, ask(compressed, self.images, "compressed"))


@dataclass(frozen=True)
class Budget:
    """What a repaired file may cost at most; None for no limit."""

    max_bytes: int | None = None
    max_latency_ms: float | None = None  # of the file's runtime, one image, one thread


@dataclass(frozen=True)
class Step:
    """One file of the frontier."""

    tensors: tuple[str, ...]  # of 16 bits, sorted
    path: Path
    bytes: int
    latency_ms: float
    divergence: float  # mean KL from the original on the images of the search, in nats
    deviation: Figure  # share of the probe on which the pair deviates
    argmax: Figure  # share of the probe on which the labels differ, ties included
    repaired: Figure  # share of the held-out triggers on which the pair agrees


@dataclass(frozen=True)
class Bench:
    """A file to be widened, what it is compared with, and where the candidates go; each is written and asked once."""

    path: Path
    search: Asked  # images that the choice of tensors looks at: never those of the judgement
    probe: Asked
    triggers: Asked  # held out: of other seeds than the search's
    folder: Path
    float_output: bool = False
    interface: Interface = field(default_factory=Interface)
    repeats: int = 100  # of the measurement of latency
    threads: int | None = 1  # of a candidate that is asked; None: as many as the runtime takes
    groups_of_probe: Groups | None = None  # (n,) the seed that each probe image was made from
    _losses: dict[frozenset[str], float] = field(default_factory=dict, repr=False)
    _judged: dict[Path, Step] = field(default_factory=dict, repr=False)
    _wrong: dict[Path, Mask] = field(default_factory=dict, repr=False)
    _latencies: dict[Path, float] = field(default_factory=dict, repr=False)

    @property
    def format(self) -> Format:
        """How the file is widened."""
        return format_of(self.path)

    def write(self, tensors: Iterable[str]) -> Path:
        """The file with these tensors widened; the same name for the same tensors."""
        return self.write_bits(Bits(tuple(sorted(tensors)), (), self.float_output))

    def write_bits(self, bits: Bits) -> Path:
        """The file with these bits, among the candidates; the same name for the same bits."""
        target = self.folder / f"{self.path.stem}-{bits.key}{self.path.suffix}"
        if not target.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.format.write(self.path, bits, target)
        return target

    def groups(self) -> list[Names]:
        """The activations that can be widened, in groups that share a grid."""
        return self.format.groups(self.format.read(self.write(())))

    def loss(self, tensors: frozenset[str]) -> float:
        """Mean KL divergence of the widened file from the original on the search's images, in nats."""
        if tensors not in self._losses:
            path = self.write(tensors)
            self._losses[tensors] = divergence(self.search.outputs(self._opened(path)))
            self.forget(path)
        return self._losses[tensors]

    def forget(self, path: Path) -> None:
        """Remove a candidate unless it was judged: hundreds are tried, and those that are taken are written again."""
        if path not in self._judged:
            path.unlink(missing_ok=True)

    def step(self, tensors: frozenset[str]) -> Step:
        """The file with these tensors widened, opened again and judged."""
        return self.judge(self.write(tensors), tensors)

    def judge(self, path: Path, tensors: Iterable[str] = ()) -> Step:
        """Any file, opened again and judged once; `tensors` only says in the result which ones have 16 bits."""
        if path in self._judged:
            return self._judged[path]
        model = self._opened(path)
        probe, triggers = self.probe.outputs(model), self.triggers.outputs(model)
        self._wrong[path] = (probe.deviates | probe.tied).numpy()
        groups = self.groups_of_probe
        self._judged[path] = Step(
            tuple(sorted(tensors)),
            path,
            path.stat().st_size,
            self.latency(path),
            divergence(self.search.outputs(model)),
            share(probe.deviates.numpy(), groups),
            share(self._wrong[path], groups),
            share((~triggers.deviates).numpy()),
        )
        return self._judged[path]

    def wrong(self, step: Step) -> Mask:
        """On which probe images a judged file's label is another than the original's, ties included, (n,) bool."""
        return self._wrong[step.path]

    def latency(self, path: Path) -> float:
        """Milliseconds for one image; measured once, in turns with the bench's own file, whose figure scales it.

        So a load on the machine that comes and goes between two files does not make one of them look slow.
        """
        image = self.search.images[:1]
        if self.path not in self._latencies:
            self._latencies[self.path] = latencies([self.path], image, self.interface, self.repeats)[0]
        if path not in self._latencies:
            own, other = latencies([self.path, path], image, self.interface, self.repeats)
            self._latencies[path] = self._latencies[self.path] * other / own
        return self._latencies[path]

    def _opened(self, path: Path) -> Classifier:
        return open_classifier(path, self.interface, threads=self.threads)


def frontier(bench: Bench, budget: Budget = Budget(), choose: Choice = greedy) -> list[Step]:
    """Cost against deviation: the file as it is, then with ever more activations of 16 bits, within the budget.

    `choose` is forward selection on the search's images; the judgement's images choose nothing. All activations at 16
    bits come last if the budget allows them: without changes between kernels they can be faster than a mixture.
    Raises `InputError` for a file without quantised activations, and where the file as it is exceeds the budget.
    """
    groups = bench.groups()
    if not groups:
        raise InputError(f"mixed precision needs quantised activations per tensor, {bench.path} has none")

    def affordable(tensors: frozenset[str]) -> bool:
        path = bench.write(tensors)
        small = budget.max_bytes is None or path.stat().st_size <= budget.max_bytes
        if small and (budget.max_latency_ms is None or bench.latency(path) <= budget.max_latency_ms):
            return True
        bench.forget(path)
        return False

    if not affordable(frozenset()):
        raise InputError(f"the budget {budget} must allow at least {bench.path} as it is")
    chosen = [frozenset[str](), *choose(groups, bench.loss, affordable)]
    everything = frozenset(name for group in groups for name in group)
    if chosen[-1] != everything and affordable(everything):
        chosen.append(everything)
    return [bench.step(tensors) for tensors in chosen]


def divergence(outputs: Outputs) -> float:
    """Mean KL divergence of the compressed model's probabilities from the original's, in nats, >= 0."""
    original, compressed = (scores.double().log_softmax(-1) for scores in outputs)
    terms = original.exp() * (original - compressed)
    return float(torch.where(original == -torch.inf, 0, terms).sum(-1).mean())
