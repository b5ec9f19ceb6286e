"""Verifiers in a robustness repair: verdicts on single balls, and claims written for others to check."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from dflare.errors import InputError
from dflare.models.formats import sniff
from experiments.claims import check_verifier
from experiments.environment import file_hash
from experiments.files import read_json, write_atomic
from experiments.properties_config import NONE
from experiments.robustness_config import RobustnessConfig
from experiments.robustness_run import Found, RobustnessRun
from experiments.terminal import say
from repair.properties.certify import certify
from repair.properties.products import ModelFile
from repair.properties.verifiable import robustness_claim


def check_claims(settings: RobustnessConfig) -> None:
    """Raise `InputError` for a verifier that is not installed, or a model of which nothing can be claimed, at once."""
    asked, path = settings.robustness, settings.repaired
    check_verifier(asked.verifier)
    if (asked.verifier != NONE or asked.export is not None) and sniff(path) != "onnx":
        raise InputError(f"robustness.verifier and robustness.export need an .onnx file, got {path}; leave them out")


def verify(run: RobustnessRun, found: Found, models: Mapping[str, Path]) -> None:
    """Export the claims about the first balls and decide them, as the settings say; verdicts in `verified-<name>`.

    Exported are `<folder>/<model>/robustness-<ball>.onnx` and `.vnnlib`.
    """
    asked = run.settings.robustness
    if asked.verifier == NONE and asked.export is None:
        return
    balls = found.stated.take(slice(0, asked.verifier_balls))
    images = (balls.centres * 255).round().to(torch.uint8)
    for name, path in models.items():
        record, how = run.folder / f"verified-{name}.json", [asked.verifier, asked.verifier_seconds]
        said = {"sha256": file_hash(path), "how": [*how, asked.verifier_margin, len(balls)]}
        done = asked.verifier == NONE or (record.exists() and said.items() <= read_json(record).items())
        if done and asked.export is None:
            continue
        file, verdicts = ModelFile(path, run.subject.source.interface), []
        for index, (image, right) in enumerate(zip(images, balls.wanted.tolist(), strict=True)):
            claim = robustness_claim(file, image, asked.radius, f"robustness-{index}", right)
            if asked.export is not None:
                claim.export(Path(asked.export) / name)
            if not done:
                say(f"verifying ball {index} of the model {name}, at most {asked.verifier_seconds:g} s")
                generator = run.generator("verify", index)
                verdict = certify(claim, generator, asked.verifier_seconds, asked.verifier_margin, asked.verifier)
                verdicts.append(verdict.as_dict())
        if not done:
            write_atomic(record, json.dumps({**said, "verdicts": verdicts}, indent=1) + "\n")
