"""Show a model the fixed images of a run and keep what it did, under the hash of its file."""

import io
import time
from pathlib import Path

import numpy as np
import torch

from dflare.classifiers import Classifier, Outputs, ask
from dflare.triggers import Side, read_arrays
from experiments.files import write_atomic
from experiments.oracle import Oracle
from experiments.weighing import model_bytes, model_hash, model_payload
from repair.proof.evidence import Judgement

LATENCY_QUESTIONS = 100
"""Single images a model is timed on, after ten to warm up."""


def judge(oracle: Oracle, model: Path, folder: Path) -> Judgement:
    """What the compressed model in a file does on clean and probe images; read back where it was judged before."""
    source = oracle.subject.source(model)
    path = folder / f"{model_hash(source)[:16]}.npz"
    if not path.exists():
        buffer = io.BytesIO()
        answers = _answers(oracle, oracle.subject.pair(model).compressed)
        payload = model_payload(source)
        answers |= {} if payload is None else {"payload": np.array(payload)}
        np.savez_compressed(buffer, **answers)  # type: ignore[arg-type]
        write_atomic(path, buffer.getvalue())
    arrays = read_arrays(path)
    return Judgement(
        clean=arrays["clean"],
        correct=arrays["correct"],
        probe=arrays["probe"],
        probe_labels=arrays["probe_labels"],
        milliseconds=arrays["milliseconds"],
        bytes=model_bytes(source),
        payload=int(arrays["payload"]) if "payload" in arrays else None,
    )


def agrees_on_clean(oracle: Oracle, model: Path, side: Side) -> np.ndarray:
    """Whether the pair agrees on each clean image of a side, (n,) bool."""
    images = oracle.subject.sides[side].images
    outputs = Outputs(oracle.clean(side), ask(oracle.subject.pair(model).compressed, images, "compressed"))
    return ~outputs.deviates.numpy()


def _answers(oracle: Oracle, classifier: Classifier) -> dict[str, np.ndarray]:
    judge_side = oracle.subject.sides[Side.judge]
    milliseconds = _latency(classifier, judge_side.images)
    clean = ask(classifier, judge_side.images, "compressed")
    probe = torch.cat([ask(classifier, images, "compressed") for images in oracle.probe.chunks()])
    said, labels = Outputs(oracle.probe_scores, probe), judge_side.labels
    correct = clean.argmax(-1) == labels if labels is not None else torch.zeros(0, dtype=torch.bool)
    return {
        "clean": ~Outputs(oracle.clean(Side.judge), clean).deviates.numpy(),
        "correct": correct.numpy(),
        "probe": ~said.deviates.numpy(),
        "probe_labels": (said.labels[0] == said.labels[1]).numpy(),
        "milliseconds": milliseconds,
    }


def _latency(classifier: Classifier, images: torch.Tensor) -> np.ndarray:
    """Milliseconds to answer one image, `LATENCY_QUESTIONS` times, on as many threads as torch has."""
    times = []
    for row in range(LATENCY_QUESTIONS + 10):
        image = images[row % len(images)][None]
        start = time.perf_counter()
        ask(classifier, image)
        times.append(1000 * (time.perf_counter() - start))
    return np.array(times[10:])
