"""Verdicts on claims: certified by a complete verifier, falsified by a counterexample that the files show, or unknown.

A certificate is a statement in real arithmetic about the graph: no input of the box violates the property, however
close. What a runtime computes in float32 differs by some 1e-6 of the scores, and HiGHS accepts constraints that are
broken by 1e-7 of their own; `margin` asks for more than that.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from dflare.errors import InputError
from repair.properties.affine import Graph, read_graph
from repair.properties.climbing import climb
from repair.properties.property import Box, Case, Polytope
from repair.properties.verifiable import Claim

VERIFIERS = ("highs", "none")
"""What may decide where an attack finds nothing; `none` leaves it unknown."""

STARTS = 32
"""Inputs of every box from which an attack climbs; the middle of the box is one of them."""

TRIED = 8
"""Counterexamples of an attack, the deepest ones, that the files are asked about."""

FEW_INPUTS = 8
"""Boxes of so many sides are cut in half where they take too long; with more, halves are as hard as the whole."""

PATIENCE = 10.0
"""Seconds that such a box may take before it is cut."""


class Outcome(Enum):
    """How a claim ended."""

    certified = "certified"
    falsified = "falsified"
    unknown = "unknown"


@dataclass(frozen=True)
class Verdict:
    """What is known of a claim, and why in one sentence."""

    claim: str
    outcome: Outcome
    why: str
    seconds: float
    margin: float
    counterexample: Tensor | None = None  # float32 (inputs,), re-executed on the files

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        numbers = None if self.counterexample is None else self.counterexample.tolist()
        return {**vars(self), "outcome": self.outcome.value, "counterexample": numbers}


def certify(
    claim: Claim, generator: torch.Generator, seconds: float = 60.0, margin: float = 0.0, verifier: str = "highs"
) -> Verdict:
    """The verdict on a claim within about `seconds`.

    First an attack (projected ascent on the violation margin), then the verifier. `margin` >= 0, in the unit of the
    outputs, is how far from every violation a certificate keeps. A counterexample, whoever found it, is asked about
    alone on the claim's files and counts only where they violate the claim. Raises `InputError` where the verifier
    is not installed.
    """
    if verifier not in VERIFIERS or margin < 0 or seconds <= 0:
        raise ValueError(
            f"expected a verifier of {VERIFIERS}, margin >= 0, seconds > 0, got {verifier, margin, seconds}"
        )
    began = time.perf_counter()
    try:
        graph = read_graph(claim.model, claim.about)
        outcome, why, found = _decided(claim, graph, generator, began + seconds, margin, verifier)
    except Unsupported as unsupported:
        outcome, why, found = Outcome.unknown, f"an attack found no counterexample; {unsupported}", None
    return Verdict(claim.name, outcome, why, time.perf_counter() - began, margin, found)


class Unsupported(Exception):  # noqa: N818  (an ending, not an error)
    """The verifier cannot reason about this graph; the message says why."""


def _decided(
    claim: Claim, graph: Graph, generator: torch.Generator, ends: float, margin: float, verifier: str
) -> tuple[Outcome, str, Tensor | None]:
    found, refuted = _attacked(claim, graph, generator)
    if found is not None:
        return Outcome.falsified, "an attack found a counterexample, which the files show too", found
    doubt = f" ({refuted} counterexamples of the attack do not re-execute on the files)" if refuted else ""
    if verifier == "none":
        return Outcome.unknown, f"an attack found no counterexample, and no verifier was asked{doubt}", None
    return _verified(claim, graph, ends, margin, doubt)


def _attacked(claim: Claim, graph: Graph, generator: torch.Generator) -> tuple[Tensor | None, int]:
    """A counterexample that the files show, or None; and how many of the attack's the files do not show."""
    tried = 0
    for case in claim.wanted.cases:
        low, high = case.box.bounds(torch.float32)
        drawn = torch.cat([(low + (high - low) / 2)[None], case.box.sample(STARTS - 1, generator)])
        inputs, margins = climb(graph.scores, case.box, case.unsafe, drawn.clamp(low, high))
        order = margins.argsort(descending=True)[:TRIED]
        bad = inputs[order[margins[order] >= 0]]
        for one in bad:
            if claim.confirm(one[None]).item():
                return one, tried
            tried += 1
    return None, tried


def _verified(claim: Claim, graph: Graph, ends: float, margin: float, doubt: str) -> tuple[Outcome, str, Tensor | None]:
    """The verdict of HiGHS, box by box."""
    from repair.properties.mixed_integer import OutOfLimit

    open_boxes = [(case.box, case.unsafe) for case in claim.wanted.cases]
    done = 0
    while open_boxes:
        box, unsafe = open_boxes.pop()
        few = int((box.high > box.low).sum()) <= FEW_INPUTS
        until = min(ends, time.perf_counter() + PATIENCE) if few else ends
        try:
            found = _search(graph, box, unsafe, margin, until)
        except OutOfLimit as ending:
            if not few or time.perf_counter() >= ends:
                why = f"{ending} after {done} parts of the boxes, {len(open_boxes) + 1} are open{doubt}"
                return Outcome.unknown, why, None
            open_boxes += [(half, unsafe) for half in _halves(box, claim.wanted.cases)]
            continue
        if found is not None:
            return _checked(claim, graph, (box, unsafe), found, margin)
        done += 1
    if doubt:
        return Outcome.unknown, f"HiGHS says that no input violates it, which contradicts the attack{doubt}", None
    kept = f" and stays {margin:g} away from it" if margin else ""
    return Outcome.certified, f"HiGHS proved that no input violates it{kept}, in real arithmetic", None


def _search(graph: Graph, box: Box, unsafe: Sequence[Polytope], margin: float, ends: float) -> Tensor | None:
    """Inputs of a box, float64 (inputs,), with outputs up to `margin` from a polytope; None where there are none."""
    from repair.properties.mixed_integer import Program

    program = Program(box, ends)
    try:
        outputs = graph.expressions(program.rectify)
    except InputError as error:
        raise Unsupported(str(error)) from error
    never: set[bytes] = set()  # rows that no input of the box satisfies: they return in many polytopes
    for polytope in unsafe:
        rows, bounds = outputs @ polytope.coefficients.T, polytope.bounds + margin
        keys = [row.numpy().tobytes() for row in torch.cat([polytope.coefficients, bounds[:, None]], dim=1)]
        low, _ = program.limits(rows)
        never.update(key for key, least, bound in zip(keys, low, bounds.tolist(), strict=True) if least > bound)
        if never.isdisjoint(keys):
            found = program.find(rows, bounds)
            if found is not None:
                return torch.from_numpy(found)
    return None


def _checked(
    claim: Claim, graph: Graph, where: tuple[Box, tuple[Polytope, ...]], found: Tensor, margin: float
) -> tuple[Outcome, str, Tensor | None]:
    """The verdict on a counterexample of the verifier: it, or what an ascent from there reaches, is re-executed."""
    box, unsafe = where
    low, high = box.bounds(torch.float32)
    start = found.float().clamp(low, high)[None]
    for one in (start, climb(graph.scores, box, unsafe, start)[0]):
        if claim.confirm(one).item():
            return Outcome.falsified, "HiGHS found a counterexample, which the files show too", one[0]
    within = f", which may lie within the margin {margin:g} of a violation" if margin else ""
    return Outcome.unknown, f"the counterexample that HiGHS found does not re-execute on the files{within}", None


def _halves(box: Box, cases: Sequence[Case]) -> list[Box]:
    """The box cut across the side that is longest in units of the widest box of the claim."""
    units = torch.stack([case.box.high - case.box.low for case in cases]).amax(0).clamp(min=1e-300)
    side = int(((box.high - box.low) / units).argmax())
    low, high = box.low.clone(), box.high.clone()
    low[side] = high[side] = (box.low[side] + box.high[side]) / 2
    return [Box(box.low, high), Box(low, box.high)]
