"""Run a method of the literature on a compressed model; the validate side says which of its iterations is kept."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from repair.compression import Compressed
from repair.data import Examples, Mixture
from repair.fit import Fitted
from repair.search_based.arachne import arachne
from repair.search_based.candidates import Candidates
from repair.search_based.factors import care, fine_tune
from repair.search_based.neurecover import History, neurecover
from repair.search_based.neurons import Neuron
from repair.search_based.retraining import lesson, projected, retrained, set_weights
from repair.search_based.sample import Sample, Search, draw
from repair.search_based.single_weights import Place
from repair.trainable import Trainable

CYCLE = (180, 20)
"""Steps of retraining and iterations of fine-tuning that alternate in `birdnn`."""

CHECKS = 10
"""Times that the validate side is looked at, at least."""


@dataclass(frozen=True)
class Task:
    """What a method is given."""

    trainable: Trainable
    triggers: Examples
    clean: Examples  # of the train side
    steps: int  # iterations, or steps of the optimiser, at most
    batch_size: int  # of retraining
    replay: float  # share of clean images in its batches
    rate: float  # its learning rate
    seed: int
    free: Sequence[str] | None = None  # what may move, as an earlier search named it; None: the method's to choose
    history: Callable[[Sample], History] | None = None  # None: nothing is known of before


Method = Callable[[Task, Sample, torch.Generator], Search]


def fit_search(
    method: str, task: Task, validate: tuple[Examples, Examples] | None = None, every: int = 100, patience: int = 10
) -> Fitted:
    """The weights that a method of `METHODS` comes to.

    With `validate` (triggers and clean images of that side) it is looked at every `every` steps, and at least `CHECKS`
    times: kept are the latest weights whose score is within a standard error of the best (as in `repair.keeping`, the
    weights that came in among them), and after `patience` looks without a better score it ends. Without, exactly
    `task.steps` steps are taken. Equal arguments give equal weights.
    """
    generator = torch.Generator().manual_seed(task.seed)
    with torch.no_grad():
        base = projected(Compressed(task.trainable.module, task.trainable.plan, task.trainable.shown))
    set_weights(task.trainable, base)
    search = METHODS[method](task, draw(task.trainable, task.triggers, task.clean, generator), generator)
    if validate is None:
        *_, last = islice(search.weights, task.steps + 1)
        return Fitted({**base, **last}, task.steps, None, search.moves)
    return _kept(task, search, base, validate, min(every, max(1, task.steps // CHECKS)), patience)


def _kept(
    task: Task,
    search: Search,
    base: Mapping[str, Tensor],
    validate: tuple[Examples, Examples],
    every: int,
    patience: int,
) -> Fitted:
    scored = None
    best, waited, kept = -1.0, 0, Fitted(dict(base), 0, None, search.moves)
    for step, weights in enumerate(islice(search.weights, task.steps + 1)):
        if step % every and step != task.steps:
            continue
        if scored is None:
            scored = _scoring(task.trainable, list(weights) or list(base), validate)
        score, error = scored({name: weights.get(name, base[name]) for name in (list(weights) or list(base))})
        waited = 0 if score > best else waited + 1
        best = max(best, score)
        if score >= best - error:
            kept = Fitted({**base, **weights}, step, score, search.moves)
        if waited >= patience:
            break
    return kept


def _scoring(
    trainable: Trainable, names: Sequence[str], validate: tuple[Examples, Examples]
) -> Callable[[Mapping[str, Tensor]], tuple[float, float]]:
    """Mean of the shares of triggers and clean images on which the pair agrees, and its standard error."""
    sides = [side for side in validate if len(side)]
    if not sides:
        return lambda weights: (0.0, 0.0)
    candidates = Candidates(trainable, names, sides[0].images, sum(map(len, sides)))
    known = [candidates.known(side) for side in sides]

    def score(weights: Mapping[str, Tensor]) -> tuple[float, float]:
        one = {name: weight[None] for name, weight in weights.items()}
        agrees = [(candidates.scores(side, one)[0].argmax(-1) == side.right).double() for side in known]
        spread = sum(float(each.var(correction=0)) / len(each) for each in agrees)
        return sum(float(each.mean()) for each in agrees) / len(agrees), spread**0.5 / len(agrees)

    return score


def _arachne(task: Task, sample: Sample, generator: torch.Generator) -> Search:
    return arachne(task.trainable, sample, task.steps, generator, _places(task))


def _neurecover(task: Task, sample: Sample, generator: torch.Generator) -> Search:
    known = History(sample.negative, sample.positive, {}) if task.history is None else task.history(sample)
    return neurecover(task.trainable, sample, task.steps, generator, known, _places(task))


def _care(task: Task, sample: Sample, generator: torch.Generator) -> Search:
    return care(task.trainable, sample, task.steps, generator, _neurons(task.free))


def _fine_tune(task: Task, sample: Sample, generator: torch.Generator) -> Search:
    return fine_tune(task.trainable, sample, task.steps, generator, _neurons(task.free))


def _retrain(task: Task, sample: Sample, generator: torch.Generator) -> Search:
    return Search(_moving(task.trainable), retrained(task.trainable, _mixture(task), task.rate))


def _birdnn(task: Task, sample: Sample, generator: torch.Generator) -> Search:
    """Retraining and fine-tuning in turn; the neurons are those of the model as it came."""
    free = None if task.free is None else [name for name in task.free if "#" in name]
    first = fine_tune(task.trainable, sample, 0, generator, _neurons(free))
    chosen = [Neuron.of(name) for name in first.moves]
    names = (*_moving(task.trainable), *first.moves)
    return Search(names, _alternating(task, sample, chosen, _mixture(task), generator))


def _alternating(
    task: Task, sample: Sample, chosen: Sequence[Neuron], mixture: Mixture, generator: torch.Generator
) -> Iterator[dict[str, Tensor]]:
    student, taken = Compressed(task.trainable.module, task.trainable.plan, task.trainable.shown), 0
    yield projected(student)
    while True:
        for weights in islice(retrained(task.trainable, mixture, task.rate, taken), 1, CYCLE[0] + 1):
            yield weights
        taken += CYCLE[0]
        base = projected(student)
        set_weights(task.trainable, base)
        search = fine_tune(task.trainable, sample, CYCLE[1], generator, chosen)
        for changed in islice(search.weights, 1, CYCLE[1] + 1):
            weights = {**base, **changed}
            yield weights
        set_weights(task.trainable, weights)


def _mixture(task: Task) -> Mixture:
    return Mixture(*lesson(task.trainable, task.triggers, task.clean), task.batch_size, task.replay, task.seed)


def _moving(trainable: Trainable) -> tuple[str, ...]:
    return tuple(name for name, weight in trainable.module.named_parameters() if weight.requires_grad)


def _places(task: Task) -> list[Place] | None:
    return None if task.free is None else [Place.of(name) for name in task.free]


def _neurons(names: Sequence[str] | None) -> list[Neuron] | None:
    return None if names is None else [Neuron.of(name) for name in names]


METHODS: dict[str, Method] = {
    "arachne": _arachne,
    "neurecover": _neurecover,
    "care": _care,
    "birdnn-retrain": _retrain,
    "birdnn-finetune": _fine_tune,
    "birdnn": _birdnn,
}
"""Name -> how a search is begun."""
