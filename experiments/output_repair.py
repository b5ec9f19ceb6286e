"""Output repair in a run: `head.npz` behind the model handed in, which stays closed and as it is."""

import json
import time
from dataclasses import asdict
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dflare.classifiers import ask
from dflare.errors import InputError
from dflare.triggers import Side
from experiments.config import Config
from experiments.files import write_atomic
from experiments.oracle import Oracle
from experiments.repairing import Training
from repair.outputs.fitting import Fit, fit_head
from repair.outputs.head import IDENTITY, Head
from repair.outputs.head_file import load_head, save_head
from repair.outputs.recipes import OUTPUT_RECIPES, OutputRecipe
from repair.outputs.replay import replayed

TIMED = 200
"""Rows of scores that a head is timed on, one at a time."""


def train_head(
    settings: Config, oracle: Oracle, target: Path, images: tuple[Tensor, Tensor], seed: int, steps: int | None
) -> Path:
    """Learn a head and write it to `target`, checked, with `head.onnx` beside it where onnx is installed; its path.

    The arguments are those of `experiments.repairing.train_model`. A head stands behind the model that was handed in,
    never behind another head: each round's learns from the triggers of all rounds so far. With `steps` = 0, and
    without images to learn, it changes nothing.
    """
    began, (learn, watch) = time.monotonic(), images
    recipe, few = OUTPUT_RECIPES[settings.repair.recipe], _few(oracle)
    fitted, questions = Fit(IDENTITY, 0), 0
    if len(learn) and steps != 0:
        scores, targets = _said(recipe, oracle, learn)
        questions = len(scores)
        fitted = fit_head(recipe.head, scores, targets, seed=seed, keep=recipe.keep, steps=steps)
    save_head(fitted.head, target)
    if load_head(target)(few).tobytes() != fitted.head(few).tobytes():
        raise InputError(f"expected the head in {target} to answer as it did before it was written, it does not")
    training = Training(
        fitted.steps,
        _score(oracle, fitted.head, watch),
        time.monotonic() - began,
        len(learn),
        recipe=recipe.parts(),
        head={**head_figures(fitted.head, target, few), "questions": questions},
    )
    write_atomic(target.with_name("training.json"), json.dumps(asdict(training)) + "\n")
    return target


def _said(recipe: OutputRecipe, oracle: Oracle, learn: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the model handed in and probabilities of the original, (n, classes), of all that a head learns from."""
    compressed, side = oracle.subject.pair().compressed, oracle.subject.sides[Side.train]
    said = [
        (ask(compressed, part, "compressed"), oracle.examples(part).targets)
        for part in chain((learn,), replayed(recipe, side))
    ]
    scores, targets = (torch.cat(parts).numpy() for parts in zip(*said, strict=True))
    return scores, targets


def head_figures(head: Head, path: Path, scores: np.ndarray) -> dict[str, Any]:
    """Kind, bytes and microseconds of a head in a file, for scores (n, classes) like those that it will see.

    Writes `head.onnx` beside it, proves that ONNX Runtime says the same labels, and adds its bytes; null without onnx.
    """
    times = []
    for row in range(TIMED):
        one = scores[row % len(scores)][None]
        start = time.perf_counter()
        head(one)
        times.append(time.perf_counter() - start)
    known = {"kind": head.kind, "bytes": path.stat().st_size, "payload": head.payload, "onnx_bytes": None}
    if find_spec("onnx") is not None and find_spec("onnxruntime") is not None:
        from repair.outputs.onnx_head import write_checked

        exported = path.with_suffix(".onnx")
        write_checked(head, scores, exported)
        known["onnx_bytes"] = exported.stat().st_size
    return {**known, "microseconds": round(1e6 * float(np.median(times)), 1)}


def _few(oracle: Oracle) -> np.ndarray:
    """Scores of the compressed model as it was handed in, (n, classes), for some images of the train side."""
    images = oracle.subject.sides[Side.train].images[:TIMED]
    return ask(oracle.subject.pair().compressed, images, "compressed").numpy()


def _score(oracle: Oracle, head: Head, watch: Tensor) -> float | None:
    """Mean of the shares of the validate side's triggers and clean images on which the pair agrees, in [0, 1].

    None where that side has no images.
    """
    shares, compressed = [], oracle.subject.pair().compressed
    for examples in (oracle.examples(watch), oracle.clean_examples(Side.validate)):
        if len(examples):
            answers = head(ask(compressed, examples.images, "compressed").numpy()).argmax(-1)
            shares.append(float((answers == examples.targets.argmax(-1).numpy()).mean()))
    return float(np.mean(shares)) if shares else None
