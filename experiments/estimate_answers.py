"""What both models said of the images of an estimate, kept in the run folder so that nothing is asked twice."""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dflare.classifiers import Classifier, Outputs, ask
from dflare.errors import InputError
from experiments.files import append_line, parse_json, read_lines, write_atomic
from experiments.opening import Source, answered_by
from experiments.terminal import quiet

CHUNK = 1000
"""Images whose answers make one file of the original's."""

BATCH = 50
"""Questions to a compressed model between two lines of its file: what a killed process loses at most."""


@dataclass(frozen=True)
class Images:
    """Images that an estimate is about, and what tells them from others."""

    pixels: Tensor  # (n, c, h, w) uint8
    where: str  # in words
    fingerprint: str

    @classmethod
    def of(cls, pixels: Tensor, where: str) -> "Images":
        """The images with the hash of their pixels."""
        digest = hashlib.sha256(json.dumps(tuple(pixels.shape)).encode())
        for part in pixels.split(CHUNK):
            digest.update(part.contiguous().numpy().tobytes())
        return cls(pixels, where, digest.hexdigest())


def entry(name: str, source: Source | None, subject: str, images: Images) -> str:
    """The name under which a model's answers are kept: its role and a hash of all that they hang on."""
    facts = [subject, torch.__version__] if source is None else [*source.facts(), answered_by(source, "default")]
    return f"{name}-{hashlib.sha256(json.dumps([facts, images.fingerprint]).encode()).hexdigest()[:16]}"


def original_scores(classifier: Classifier, images: Images, folder: Path) -> Tensor:
    """The original's scores (n, classes) of all images, asked once each; a stopped process goes on where it was."""
    parts = []
    starts = range(0, len(images.pixels), CHUNK)
    for start in tqdm(starts, "the original's answers", unit="thousand", disable=quiet()):
        path, pixels = folder / f"{start:09d}.npy", images.pixels[start : start + CHUNK]
        if not path.exists():
            buffer = io.BytesIO()
            np.save(buffer, ask(classifier, pixels, "original", BATCH).numpy(), allow_pickle=False)
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, buffer.getvalue())
        parts.append(_read(path, len(pixels)))
    return torch.from_numpy(np.concatenate(parts))


@dataclass(frozen=True)
class Comparison:
    """Asks a compressed model about some of the images and compares it with the original."""

    classifier: Classifier
    images: Images
    scores: Tensor  # the original's, (n, classes)
    path: Path  # the answers so far, a line of JSON a batch

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Which of the images (k,) deviate and which are mere ties, (k, 2) bool; those known are not asked again."""
        known = self.known()
        missing = [int(row) for row in rows if int(row) not in known]
        for start in range(0, len(missing), BATCH):
            part = missing[start : start + BATCH]
            chosen = torch.tensor(part)
            said = ask(self.classifier, self.images.pixels[chosen], "compressed", BATCH)
            if said.shape[1] != self.scores.shape[1]:
                raise InputError(
                    f"the two models must know the same classes, got {self.scores.shape[1]} from the original and "
                    f"{said.shape[1]} from the compressed"
                )
            outputs = Outputs(self.scores[chosen], said)
            line = {"images": part, "deviates": outputs.deviates.tolist(), "tied": outputs.tied.tolist()}
            append_line(self.path, json.dumps(line))
            known |= _pairs(line)
        return np.array([known[int(row)] for row in rows], dtype=bool).reshape(-1, 2)

    def known(self) -> dict[int, tuple[bool, bool]]:
        """Image -> whether it deviates and whether it is a mere tie, of all that was asked so far."""
        lines = read_lines(self.path) if self.path.exists() else []
        return {row: said for line in lines for row, said in _pairs(parse_json(line, str(self.path))).items()}


def _pairs(line: dict[str, list[int]]) -> dict[int, tuple[bool, bool]]:
    both = zip(line["deviates"], line["tied"], strict=True)
    return dict(zip(line["images"], ((bool(a), bool(b)) for a, b in both), strict=True))


def _read(path: Path, count: int) -> np.ndarray:
    try:
        scores = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"expected the original's answers in {path}, they cannot be read; delete the file") from error
    if scores.ndim != 2 or len(scores) != count:
        raise InputError(f"expected {count} rows of scores in {path}, got shape {scores.shape}; delete the file")
    return np.asarray(scores)
