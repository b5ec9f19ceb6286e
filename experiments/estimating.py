"""`dflare estimate`: how often the models deviate on images without labels, from a few questions to each.

Written to `estimate.json` of the run folder, whose keys docs/estimate.md lists. The original is asked about every image
once; the model handed in and that of each finished round about `estimate.queries` images, the same ones first.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dflare.triggers import Side
from experiments.catalogue import data_of
from experiments.data import READERS, load_data
from experiments.estimate_answers import Comparison, Images, entry, original_scores
from experiments.files import write_atomic
from experiments.kinds import kind_of
from experiments.run import Run
from experiments.terminal import say
from repair.proof import metrics
from repair.proof.estimate import Estimate, estimate
from repair.proof.intervals import Figure

FILE = "estimate.json"

SCHEMA_VERSION = 1


class Candidate(NamedTuple):
    """A compressed model of the run."""

    name: str
    round: int | None  # that made it; None for the one handed in
    rolled_back: bool
    file: Path


def estimate_run(run: Run) -> str:
    """Estimate every model of the run, write `estimate.json`, and say it in a sentence each.

    Raises `InputError` for images that cannot be read or that the models do not take.
    """
    images, wanted = operational_images(run), run.settings.estimate
    folder = run.folder.path / "estimate"
    original = run.subject.sources.get("original")
    say(f"the original's answers to {len(images.pixels):,} images")
    place = folder / entry("original", original, run.subject.name, images)
    scores = original_scores(run.subject.pair().original, images, place)
    tops = scores.double().topk(2, -1).values
    margins = (tops[:, 0] - tops[:, 1]).nan_to_num(posinf=1e300).numpy()
    found: list[tuple[Candidate, Estimate]] = []
    for candidate in candidates(run):
        say(f"{candidate.name}: {min(wanted.queries, len(scores)):,} questions")
        source = run.subject.source(candidate.file) if run.subject.sources else None
        path = folder / f"{entry('compressed', source, run.subject.name, images)}.jsonl"
        question = Comparison(run.subject.pair(candidate.file).compressed, images, scores, path)
        found.append((candidate, estimate(margins, question, wanted.queries, run.settings.seed, wanted.confidence)))
    write_atomic(run.folder.path / FILE, json.dumps(_content(run, images, found), indent=1) + "\n")
    return "\n".join(sentence(candidate.name, result, wanted.confidence) for candidate, result in found)


def candidates(run: Run) -> Iterator[Candidate]:
    """The model handed in and those of the finished rounds, in order."""
    yield Candidate("handed in", None, False, run.handed_in_file)
    for number, finished in enumerate(run.folder.rounds()):
        yield Candidate(f"round {number}", number, bool(finished["rolled_back"]), run.model_file(number))


def operational_images(run: Run) -> Images:
    """The images that the estimate is about.

    `estimate.root` as it lies; else one's own data, all three sides, as long as nothing of the run was trained on
    them; else the judge side, which no training and no choice has seen. Resized as the run's images are.
    """
    sides, root = run.subject.sides, run.settings.estimate.root
    judge = sides[Side.judge].images
    if root is not None:
        data = load_data(None, root, image_size=(judge.shape[2], judge.shape[3]))
        parts = [part for part in (data.train_images, data.test_images) if part is not None]
        return Images.of(torch.cat(parts), f"all images of {Path(root).name} (estimate.root)")
    if _data_name(run) not in READERS and not run.folder.round(0).exists():
        return Images.of(torch.cat([side.images for side in sides.values()]), "all images of the data")
    return Images.of(judge, "the judge side of the data")


def sentence(name: str, result: Estimate, confidence: float) -> str:
    """One line for a person at a terminal."""
    if result.asked == result.images:
        return f"{name}: {_percent(result.rate.value)} of {result.images:,} images deviate; every one was asked"
    rate, needed = result.rate, result.simple_random
    return (
        f"{name}: {_percent(rate.value)} of {result.images:,} images deviate, {100 * confidence:g} % interval "
        f"{_span(rate)} whatever was not asked, {_span(result.modelled)} if deviations thin out as the original grows "
        f"surer; {result.asked:,} questions, for which simple random sampling needs {needed.same_width:,} and "
        f"{needed.same_modelled_width:,} to be as narrow"
    )


def _content(run: Run, images: Images, found: list[tuple[Candidate, Estimate]]) -> dict[str, Any]:
    settings, before = run.settings.estimate, found[0][1].rate
    models = [
        {
            "name": candidate.name,
            "round": candidate.round,
            "rolled_back": candidate.rolled_back,
            **result.as_dict(),
            "change": None if candidate.round is None else metrics.difference(result.rate, before),
        }
        for candidate, result in found
    ]
    content: dict[str, Any] = metrics.plain(
        {
            "schema_version": SCHEMA_VERSION,
            "confidence": settings.confidence,
            "queries": settings.queries,
            "seed": run.settings.seed,
            "images": {"where": images.where, "count": len(images.pixels), "fingerprint": images.fingerprint},
            "models": models,
        }
    )
    return content


def _data_name(run: Run) -> str:
    data, pair = run.settings.data, run.settings.pair
    return data.name or (data_of(pair.name) if pair.name is not None else kind_of(Path(str(data.root))))


def _span(figure: Figure) -> str:
    return f"{_percent(figure.low)} to {_percent(figure.high)}"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.2f} %"
