"""`dflare properties agreement.seeds=N`: whether a pair agrees around the first N judge images, proved or refuted."""

import json
from pathlib import Path

import torch

from dflare.errors import InputError
from dflare.models.formats import sniff
from dflare.triggers import Side
from experiments.agreement_config import AgreementSettings
from experiments.claims import check_verifier, counted
from experiments.config import Config
from experiments.files import write_atomic
from experiments.making import make_subject
from experiments.opening import WHICH
from experiments.settings import as_dict
from experiments.subject import Subject
from experiments.terminal import say
from repair.properties.certify import Verdict, certify
from repair.properties.products import ModelFile
from repair.properties.verifiable import agreement_claim


def agreement(asked: AgreementSettings, settings: Config) -> int:
    """Decide the claims one by one; `agreement.json` in the run folder holds the verdicts so far.

    The exit code: 0 where no claim is falsified, 1 where one is. Raises `InputError` for a pair that is not of two
    .onnx files, and for a verifier that is not installed.
    """
    check_verifier(asked.verifier)
    subject = make_subject(settings, progress=False)
    original, compressed = model_files(subject)
    images, target = subject.sides[Side.judge].images[: asked.seeds], Path(str(settings.run_dir)) / "agreement.json"
    verdicts: list[Verdict] = []
    for index, image in enumerate(images):
        claim = agreement_claim(original, compressed, image, asked.radius, f"agreement-{index}")
        if asked.export is not None:
            claim.export(Path(asked.export))
        generator = torch.Generator().manual_seed(settings.seed + index)
        verdicts.append(certify(claim, generator, asked.seconds, asked.margin, asked.verifier))
        say(f"judge image {index}: {verdicts[-1].outcome.value} in {verdicts[-1].seconds:.1f} s, {verdicts[-1].why}")
        content = {"settings": as_dict(asked), "pair": subject.name, "verdicts": [one.as_dict() for one in verdicts]}
        write_atomic(target, json.dumps(content, indent=1) + "\n")
    outcomes = [one.outcome.value for one in verdicts]
    print(
        f"agreement of {original.path} and {compressed.path} within {asked.radius:g} of {len(images)} judge images: "
        f"{counted(outcomes)}\ndata:    {target}"
    )
    return int("falsified" in outcomes)


def model_files(subject: Subject) -> tuple[ModelFile, ModelFile]:
    """The .onnx files of both models and how they are shown images; raises `InputError` for anything else."""
    found = []
    for which in WHICH:
        source = subject.sources.get(which)
        path = None if source is None else source.file
        if source is None or path is None or source.head is not None or sniff(path) != "onnx":
            raise InputError(
                f"claims of agreement need pair.original and pair.compressed as .onnx files, the {which} model of "
                f"{subject.name} is {'opened in memory' if path is None else path}"
            )
        found.append(ModelFile(path, source.interface))
    return found[0], found[1]
