"""Verifiers in `dflare properties`: verdicts on claims about a network, and claims written for others to check."""

import importlib.util
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from dflare.errors import InputError
from experiments.environment import file_hash
from experiments.files import write_atomic
from experiments.properties_config import NONE
from experiments.properties_run import PropertyRun, kept
from experiments.terminal import say
from repair.properties.certify import certify
from repair.properties.verifiable import property_claim


def check_verifier(name: str) -> None:
    """Raise `InputError` for a verifier that is not installed, before anything else takes its time."""
    if name != NONE and importlib.util.find_spec("highspy") is None:
        raise InputError(f'the verifier {name} needs the package highspy: pip install "dflare[verification]"')


def verify(run: PropertyRun, networks: Mapping[str, Path]) -> None:
    """Export the claims about these networks and decide them, as the settings say.

    Exported are `<folder>/<network>/<property>.onnx` and `.vnnlib`; verdicts are kept in `verified-<network>.json`
    and asked for again where another verifier, time or margin is wanted.
    """
    asked = run.settings.properties
    for name, network in networks.items():
        claims = [property_claim(network, one) for one in run.subject.claims]
        if asked.export is not None:
            for claim in claims:
                claim.export(Path(asked.export) / name)
        path = run.folder / f"verified-{name}.json"
        how = {"verifier": asked.verifier, "seconds": asked.verifier_seconds, "margin": asked.verifier_margin}
        said = {"sha256": file_hash(network), "how": how}
        if asked.verifier == NONE or (path.exists() and said.items() <= kept(path, *said, "verdicts").items()):
            continue
        verdicts = []
        for index, claim in enumerate(claims):
            say(f"verifying {claim.name} on the network {name}, at most {asked.verifier_seconds:g} s")
            verdict = certify(
                claim, run.generator("verify", index), asked.verifier_seconds, asked.verifier_margin, asked.verifier
            )
            verdicts.append(verdict.as_dict())
        write_atomic(path, json.dumps({**said, "verdicts": verdicts}, indent=1) + "\n")


def counted(outcomes: Iterable[str]) -> str:
    """How many claims ended how: "3 certified, 1 falsified, 2 unknown"."""
    counts = Counter(outcomes)
    return ", ".join(f"{counts[name]} {name}" for name in ("certified", "falsified", "unknown"))
